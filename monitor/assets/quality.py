"""Alerts about quality. One alert per cause: a problem that a damaged model or index explains is not reported again.

They test states, never a ratio alone, because the monitor sets a state only with enough evidence. `unknown` is not `ok`
and has its own alert. Only a fall of quality has severity `page`. Drift has severity `warn`, because new questions may
still get good answers.
"""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.recording import ON_INSTANCE

CANARY = 'embedship_canary_state{state="warn"} == 1'
DRIFT = 'embedship_drift_state{state="warn"} == 1'
_RECALL = 'embedship_recall_state{{source="{}", state="warn"}} == 1'
CANARY_UNKNOWN = 'embedship_canary_state{state="unknown"} == 1'
SHADOW_UNKNOWN = """(
    embedship_recall_state{source="shadow", state="unknown"} == 1
    and on (namespace, job, instance) embedship_signal_watched{signal="shadow"} == 1
  )"""
SHADOW, PROBE, FEEDBACK = map(_RECALL.format, ("shadow", "probe", "feedback"))


def _unless(first: str, *explained: str) -> str:
    return first + "\n" + "".join(f"  unless {ON_INSTANCE} {other}\n" for other in explained)


def canary(state: str) -> str:
    """Return the series of a canary state."""
    return series("embedship_canary_state", state=state)


def drift(state: str) -> str:
    """Return the series of a drift state."""
    return series("embedship_drift_state", state=state)


def recall(source: str, state: str) -> str:
    """Return the series of a recall state."""
    return series("embedship_recall_state", source=source, state=state)


BEGINS = "0x10 1x200"  # the state begins after ten minutes
_WHERE = "In `GET /monitor`, or on the page /monitor/ui: which cause does the diagnosis name, and since when?"

QUALITY = (
    Alert(
        name="EmbedshipCanaryFailed",
        severity=AlertSeverity.PAGE,
        expr=CANARY + "\n",
        lasting="1m",
        summary="{{ $labels.instance }} gives wrong vectors",
        description="{{ $labels.instance }} ({{ $labels.job }}) encodes fixed golden texts every half minute. They no "
        "longer get the vectors of the checkpoint: the model, a device or a runtime is damaged. Assume that all its "
        "answers are wrong.",
        fires=(
            AlertCase(name="the model is damaged", series={canary("warn"): BEGINS}, at="12m",
                 labels={**INSTANCE, "state": "warn"}),
            AlertCase(name="all signals follow from it", series={canary("warn"): BEGINS, drift("warn"): BEGINS,
                 recall("shadow", "warn"): BEGINS, recall("probe", "warn"): BEGINS, recall("feedback", "warn"): BEGINS},
                 at="60m", labels={**INSTANCE, "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="the canaries are ok", series={canary("ok"): "1x60", canary("warn"): "0x60"}, at="30m"),
        ),
        runbook=Runbook(
            meaning="On at least one device, the same texts no longer give the same vectors: the cosine to the "
            "checkpoint, or to the vectors at start, is below its floor. Users' texts are not part of this test.",
            impact="All vectors and hits of this instance may be wrong. Vectors that clients stored stay wrong.",
            diagnosis=(
                "Which device, and since when? Compare `embedship_canary_cosine` with `embedship_canary_cosine_floor`.",
                "Only one instance: suspect memory, device or driver. All instances: suspect a file or an update that "
                "they share.",
                "`embedship verify BUNDLE` on the machine: exit code 4 means that a file of the bundle changed.",
            ),
            mitigation=(
                "Take the instance out of the load balancer now: wrong vectors are worse than no vectors.",
                "Start a new instance elsewhere. It answers only after its golden texts gave the right vectors.",
                "Note the time during which vectors were wrong. Embeddings stored in this time must be made again.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipRecallFell",
        severity=AlertSeverity.PAGE,
        expr=_unless(SHADOW, CANARY),
        lasting="2m",
        summary="The index of {{ $labels.instance }} finds fewer of the right documents than before",
        description="A sample of the live queries of {{ $labels.instance }} ({{ $labels.job }}) is also searched "
        "exactly. The index finds fewer of the nearest documents than its baseline, and chance does not explain it (at "
        "most one false alarm in 100,000 compared queries).",
        fires=(
            AlertCase(name="the index is degraded", series={recall("shadow", "warn"): BEGINS}, at="13m",
                 labels={**INSTANCE, "source": "shadow", "state": "warn"}),
            AlertCase(name="the index is degraded, and the probes follow", series={recall("shadow", "warn"): BEGINS,
                 recall("probe", "warn"): BEGINS, recall("feedback", "warn"): BEGINS},
                 at="60m", labels={**INSTANCE, "source": "shadow", "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="recall is ok", series={recall("shadow", "ok"): "1x60", recall("shadow", "warn"): "0x60"},
                 at="30m"),
        ),
        runbook=Runbook(
            meaning="The rolling recall@10 of the index, compared with an exact search over the same vectors, has "
            "fallen. The quality of the model does not influence this comparison.",
            impact="Users get worse documents, or miss the documents that they look for.",
            diagnosis=(
                _WHERE + " `index_degraded`: the index is worse. `users_changed`: the index still answers the probes, "
                "but was not built for the new queries.",
                'How far did it fall? Compare `embedship_recall_rolling_ratio{source="shadow"}` and its interval with '
                "`embedship_recall_baseline_ratio`.",
                "What changed: a new index, another search setting, a damaged file?",
            ),
            mitigation=(
                "Roll back to the previous index: an index is a folder that is never changed in place.",
                "Build it again (`embedship index`) and compare the recall that it prints with the baseline.",
                "New kinds of queries: build with more candidates, or a flat index if the corpus is small.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipProbeRecallFell",
        severity=AlertSeverity.PAGE,
        expr=_unless(PROBE, CANARY, SHADOW),
        lasting="2m",
        summary="Labelled queries at {{ $labels.instance }} find fewer of their documents",
        description="The labelled queries that {{ $labels.instance }} ({{ $labels.job }}) replays find fewer of their "
        "right documents than before. Neither the canaries nor exact searches explain it: the model is worse, the "
        "corpus changed, or the labels are out of date.",
        fires=(
            AlertCase(name="labels are not found", series={recall("probe", "warn"): BEGINS}, at="13m",
                 labels={**INSTANCE, "source": "probe", "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="the probes are ok", series={recall("probe", "ok"): "1x60", recall("probe",
                "warn"): "0x60"},
                 at="30m"),
        ),
        runbook=Runbook(
            meaning="Recall@10 of the probes fell below its baseline. Probes are fixed labelled queries that go "
            "through the whole system. Canaries and exact searches do not explain the fall.",
            impact="If the labels are right, users no longer find the right documents. If the labels are out of date, "
            "users notice nothing, but this signal is useless until the labels are corrected.",
            diagnosis=(
                "Which probes fail? `GET /monitor` lists the worst of the last replay under `probe.worst`.",
                "`embedship_probe_missing_labels`: labels whose document is not in the index.",
                "Was the index recently built from another corpus? Search for a failing probe on /monitor/ui and read "
                "the hits.",
            ),
            mitigation=(
                "Documents are missing: restore the corpus, or roll back the index.",
                "The corpus changed: write new labels, and start with the new `--probes` file.",
                "Right documents rank lower than wrong ones: consider training; see EmbedshipRetrainSuggested.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipFeedbackRecallFell",
        severity=AlertSeverity.WARN,
        expr=_unless(FEEDBACK, CANARY, SHADOW, PROBE),
        lasting="10m",
        summary="Users of {{ $labels.instance }} get fewer of the documents that they call right",
        description="According to POST /feedback, recall@10 at {{ $labels.instance }} ({{ $labels.job }}) fell below "
        "its baseline, and no other signal explains it.",
        fires=(
            AlertCase(name="only feedback warns", series={recall("feedback", "warn"): BEGINS}, at="21m",
                 labels={**INSTANCE, "source": "feedback", "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="feedback is ok", series={recall("feedback", "warn"): "0x60"}, at="30m"),
            AlertCase(name="no feedback, so it is unknown", series={recall("feedback", "unknown"): "1x60"}, at="40m"),
        ),
        runbook=Runbook(
            meaning="The answers that users judged contain fewer of the documents that they call right. Feedback is "
            "not a fair sample and can be forged, so this alert never pages.",
            impact="Users who send feedback get worse answers than before.",
            diagnosis=(
                "Do the judgements come from a single client? Then the client may be the cause.",
                "Are there new topics? See drift on /monitor/ui.",
            ),
            mitigation=(
                "Add the judged queries to the probes. Then the fall is measured on fixed queries.",
                "Use them for the next training.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipDriftSuspected",
        severity=AlertSeverity.WARN,
        expr=_unless(DRIFT, CANARY),
        lasting="5m",
        summary="Users of {{ $labels.instance }} ask new kinds of questions",
        description="The recent queries of {{ $labels.instance }} ({{ $labels.job }}) differ from the queries on which "
        "the model was judged, by more than chance explains. Answers may still be good: look at some of them.",
        fires=(
            AlertCase(name="the queries changed", series={drift("warn"): BEGINS}, at="16m",
                 labels={**INSTANCE, "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="they are as before", series={drift("ok"): "1x60", drift("warn"): "0x60"}, at="30m"),
            AlertCase(name="a single evaluation warned", series={drift("warn"): "0x10 1x1 0x60"}, at="17m"),
        ),
        runbook=Runbook(
            meaning="The distribution of query vectors differs from the reference: the test is significant within the "
            "configured budget of false alarms, and the effect is larger than its floor.",
            impact="Unknown. Answers may be as good as before; quality was not yet measured on these queries.",
            diagnosis=(
                _WHERE,
                "What changed? `GET /monitor`, `queries.evidence`: topics gained and lost, the share of queries that "
                "belong to no known topic, and with `--keep-queries` the furthest queries.",
                "Did quality fall as well? See the recall of probes and feedback on the dashboard.",
                "A new client or a crawler? Compare with `rate(embedship_requests_total[1h])`.",
            ),
            mitigation=(
                "Quality is good: make these queries the reference (`embedship reference`), and label some as probes.",
                "Quality falls: see EmbedshipRetrainSuggested.",
                "A client sends useless queries: talk to its owner.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipRetrainSuggested",
        severity=AlertSeverity.WARN,
        expr=f"{DRIFT}\n  and {ON_INSTANCE} {PROBE}\n"
        + "".join(f"  unless {ON_INSTANCE} {other}\n" for other in (CANARY, CANARY_UNKNOWN, SHADOW, SHADOW_UNKNOWN)),
        lasting="30m",
        summary="The model of {{ $labels.instance }} should be trained again",
        description="At {{ $labels.instance }} ({{ $labels.job }}) users ask new kinds of questions, and labelled "
        "queries find fewer of their right documents. The model gives the right vectors and the index finds its "
        "documents, so neither a repair nor a rollback will help.",
        fires=(
            AlertCase(name="drift, and the probes fall", series={drift("warn"): BEGINS, recall("probe",
                "warn"): BEGINS},
                 at="41m", labels={**INSTANCE, "state": "warn"},
                 beside={"EmbedshipDriftSuspected": {**INSTANCE, "state": "warn"},
                         "EmbedshipProbeRecallFell": {**INSTANCE, "source": "probe", "state": "warn"}}),
        ),
        quiet=(
            AlertCase(name="drift alone, for a short time", series={drift("warn"): "0x26 1x200"}, at="30m"),
            AlertCase(name="the state of the index is unknown", series={drift("warn"): "0x10 1x65",
                 recall("probe", "warn"): "0x10 1x65", recall("shadow", "unknown"): "1x75",
                 series("embedship_signal_watched", signal="shadow"): "1x75"}, at="1h",
                 beside={"EmbedshipDriftSuspected": {**INSTANCE, "state": "warn"},
                         "EmbedshipProbeRecallFell": {**INSTANCE, "source": "probe", "state": "warn"}}),
            AlertCase(name="the state of the model is unknown", series={drift("warn"): "0x10 1x65",
                 recall("probe", "warn"): "0x10 1x65", canary("unknown"): "1x75"}, at="1h",
                 beside={"EmbedshipDriftSuspected": {**INSTANCE, "state": "warn"},
                         "EmbedshipProbeRecallFell": {**INSTANCE, "source": "probe", "state": "warn"}}),
            AlertCase(name="the index explains it", series={drift("warn"): "0x59 1x9", recall("probe", "warn"): "1x60",
                 recall("shadow", "warn"): "0x59 1x9"}, at="1h"),
        ),
        runbook=Runbook(
            meaning="Drift is confirmed, probe recall fell, and neither the canaries nor the index explain it: the "
            "model gets questions that it was not trained for.",
            impact="Quality is lower than before, and will not recover by itself.",
            diagnosis=(
                "Read the runbook of EmbedshipProbeRecallFell: labels that are out of date look similar.",
                "Look at ten drifted queries and their hits: would a person call them wrong?",
            ),
            mitigation=(
                "`embedship monitor export` writes drifted queries, failed probes, feedback and hard negatives as "
                "training data.",
                "Train, `embedship export`, `embedship index`, and first serve the new bundle next to the old one.",
            ),
        ),
    ),
)  # fmt: skip
