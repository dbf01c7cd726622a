"""Alerts about quality. One cause, one alert: what a damaged model or index explains is not reported a second time.

They ask for states, which the monitor gives only with enough evidence, and never for a bare ratio. `unknown` is not
`ok`: it has an alert of its own. Only falling quality pages; drift is a warning: new questions may be answered well.
"""

from embedship.monitor.assets.alert import INSTANCE, Alert, AlertCase, AlertSeverity, Runbook, series
from embedship.monitor.assets.service import KEY

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
    return first + "\n" + "".join(f"  unless {KEY} {other}\n" for other in explained)


def canary(state: str) -> str:
    return series("embedship_canary_state", state=state)


def drift(state: str) -> str:
    return series("embedship_drift_state", state=state)


def recall(source: str, state: str) -> str:
    return series("embedship_recall_state", source=source, state=state)


BEGINS = "0x10 1x200"  # the state is entered after ten minutes
_WHERE = "In `GET /monitor`, or on the page /monitor/ui: which cause does the diagnosis name, and since when?"

QUALITY = (
    Alert(
        name="EmbedshipCanaryFailed",
        severity=AlertSeverity.PAGE,
        expr=CANARY + "\n",
        lasting="1m",
        summary="{{ $labels.instance }} gives wrong vectors",
        description="Golden texts that {{ $labels.instance }} ({{ $labels.job }}) encodes every half minute no longer "
        "get the vectors of the checkpoint: model, device or runtime are damaged. Whatever it answers now is wrong.",
        fires=(
            AlertCase(name="the model is damaged", series={canary("warn"): BEGINS}, at="12m",
                 labels={**INSTANCE, "state": "warn"}),
            AlertCase(name="and everything follows from that", series={canary("warn"): BEGINS, drift("warn"): BEGINS,
                 recall("shadow", "warn"): BEGINS, recall("probe", "warn"): BEGINS, recall("feedback", "warn"): BEGINS},
                 at="60m", labels={**INSTANCE, "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="the canaries are well", series={canary("ok"): "1x60", canary("warn"): "0x60"}, at="30m"),
        ),
        runbook=Runbook(
            meaning="On at least one device the same texts, alone, no longer give the same vectors: the cosine to the "
            "checkpoint, or to the vectors at start, is below its floor. Users' texts have no part in this test.",
            impact="Every vector and every hit of this instance is suspect. Vectors that clients store are wrong for "
            "good.",
            diagnosis=(
                "Which device, since when? `embedship_canary_cosine` against `embedship_canary_cosine_floor`.",
                "One instance: memory, device or driver. All at once: a file or an update that they share.",
                "`embedship verify BUNDLE` on the machine: exit code 4 says that a file of the bundle changed.",
            ),
            mitigation=(
                "Take the instance out of the load balancer now: wrong vectors are worse than none.",
                "Start a fresh one elsewhere: it does not answer before its golden texts are right.",
                "Note the interval in which it was wrong: whoever stored embeddings in it must make them again.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipRecallFell",
        severity=AlertSeverity.PAGE,
        expr=_unless(SHADOW, CANARY),
        lasting="2m",
        summary="The index of {{ $labels.instance }} finds less than it did",
        description="Live queries of {{ $labels.instance }} ({{ $labels.job }}) are searched once more exactly: the "
        "index finds fewer of the true neighbours than its baseline, by more than chance explains: one false alarm in "
        "100,000 compared queries.",
        fires=(
            AlertCase(name="the index is degraded", series={recall("shadow", "warn"): BEGINS}, at="13m",
                 labels={**INSTANCE, "source": "shadow", "state": "warn"}),
            AlertCase(name="and the probes fall with it", series={recall("shadow", "warn"): BEGINS,
                 recall("probe", "warn"): BEGINS, recall("feedback", "warn"): BEGINS},
                 at="60m", labels={**INSTANCE, "source": "shadow", "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="recall is well", series={recall("shadow", "ok"): "1x60", recall("shadow", "warn"): "0x60"},
                 at="30m"),
        ),
        runbook=Runbook(
            meaning="Rolling recall@10 of the index against an exact search over the same vectors has fallen. The "
            "model has no part in this comparison.",
            impact="Users get documents that are not the best ones, or miss those they look for.",
            diagnosis=(
                _WHERE + " `index_degraded` is the index; `users_changed` is an index that still answers the probes "
                "but was not built for the new queries.",
                'How far? `embedship_recall_rolling_ratio{source="shadow"}` with its interval, against '
                "`embedship_recall_baseline_ratio`.",
                "What changed: a new index, another search setting, a damaged file?",
            ),
            mitigation=(
                "Roll back to the index before: an index is a folder that is never changed in place.",
                "Build it anew (`embedship index`) and compare the recall that it prints with the baseline.",
                "New kinds of queries: build with more candidates, or a flat index where the corpus is small.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipProbeRecallFell",
        severity=AlertSeverity.PAGE,
        expr=_unless(PROBE, CANARY, SHADOW),
        lasting="2m",
        summary="Known questions no longer get their known answers at {{ $labels.instance }}",
        description="The labelled queries that {{ $labels.instance }} ({{ $labels.job }}) replays find fewer of their "
        "right documents than before, and neither canaries nor exact searches say why: the corpus changed, or the "
        "labels are out of date.",
        fires=(
            AlertCase(name="labels are not found", series={recall("probe", "warn"): BEGINS}, at="13m",
                 labels={**INSTANCE, "source": "probe", "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="the probes are well", series={recall("probe", "ok"): "1x60", recall("probe",
                "warn"): "0x60"},
                 at="30m"),
        ),
        runbook=Runbook(
            meaning="Recall@10 of the probes, always the same questions through the whole stack, fell below its "
            "baseline. Canaries and exact searches do not explain it.",
            impact="If the labels are right, users no longer find what they should. If they are stale, nobody is hurt, "
            "and the monitor is blind until they are mended.",
            diagnosis=(
                "Which probes fail? `GET /monitor` lists the worst of the last replay under `probe.worst`.",
                "`embedship_probe_missing_labels`: labels that name documents which the index does not hold.",
                "Was the index built from another corpus lately? Ask a failing probe on /monitor/ui and read the hits.",
            ),
            mitigation=(
                "Documents are missing: restore the corpus, or roll back the index.",
                "The corpus moved on: write new labels, and start with the new `--probes` file.",
                "Right documents rank lower than wrong ones: a case for training; see EmbedshipRetrainSuggested.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipFeedbackRecallFell",
        severity=AlertSeverity.WARN,
        expr=_unless(FEEDBACK, CANARY, SHADOW, PROBE),
        lasting="10m",
        summary="Users of {{ $labels.instance }} find less of what they say is right",
        description="By POST /feedback, recall@10 at {{ $labels.instance }} ({{ $labels.job }}) fell below its "
        "baseline, and no other signal explains it.",
        fires=(
            AlertCase(name="only users complain", series={recall("feedback", "warn"): BEGINS}, at="21m",
                 labels={**INSTANCE, "source": "feedback", "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="users are content", series={recall("feedback", "warn"): "0x60"}, at="30m"),
            AlertCase(name="no feedback, so it is unknown", series={recall("feedback", "unknown"): "1x60"}, at="40m"),
        ),
        runbook=Runbook(
            meaning="The answers that users judged hold fewer of the documents they call right. Feedback is not a fair "
            "sample, and can be forged: it warns and never pages.",
            impact="Those who send feedback are served worse than before.",
            diagnosis=(
                "Do the judgements come from one client? Then it may be the client.",
                "Are there new topics? See drift on /monitor/ui.",
            ),
            mitigation=(
                "Add the judged queries to the probes: then the fall is measured on fixed questions.",
                "Use them for the next training.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipDriftSuspected",
        severity=AlertSeverity.WARN,
        expr=_unless(DRIFT, CANARY),
        lasting="5m",
        summary="The queries of {{ $labels.instance }} are not those the model was judged on",
        description="The recent queries of {{ $labels.instance }} ({{ $labels.job }}) lie elsewhere than the "
        "reference, significantly and by more than noise. That is no loss of quality by itself.",
        fires=(
            AlertCase(name="the queries moved", series={drift("warn"): BEGINS}, at="16m",
                 labels={**INSTANCE, "state": "warn"}),
        ),
        quiet=(
            AlertCase(name="they are as they were", series={drift("ok"): "1x60", drift("warn"): "0x60"}, at="30m"),
            AlertCase(name="one evaluation said so", series={drift("warn"): "0x10 1x1 0x60"}, at="17m"),
        ),
        runbook=Runbook(
            meaning="The distribution of query vectors moved away from the reference: the test is significant within "
            "the budget of false alarms that the server was given, and the effect is larger than its floor.",
            impact="None proven. Retrieval may be as good as before; nobody measured it on these queries yet.",
            diagnosis=(
                _WHERE,
                "What moved? `GET /monitor`, `queries.evidence`: topics gained and lost, the share that belongs to no "
                "known topic, and with `--keep-queries` the furthest queries.",
                "Did quality fall as well? Recall of probes and feedback, on the dashboard.",
                "A new client or a crawler? Compare with `rate(embedship_requests_total[1h])`.",
            ),
            mitigation=(
                "Quality holds: make these queries the reference (`embedship reference`), and label some as probes.",
                "Quality falls: see EmbedshipRetrainSuggested.",
                "A client sends rubbish: talk to its owner.",
            ),
        ),
    ),
    Alert(
        name="EmbedshipRetrainSuggested",
        severity=AlertSeverity.WARN,
        expr=f"{DRIFT}\n  and {KEY} {PROBE}\n"
        + "".join(f"  unless {KEY} {other}\n" for other in (CANARY, CANARY_UNKNOWN, SHADOW, SHADOW_UNKNOWN)),
        lasting="30m",
        summary="The model of {{ $labels.instance }} should be trained again",
        description="Two things hold at {{ $labels.instance }} ({{ $labels.job }}): the queries have drifted from the "
        "reference, and labelled queries find fewer of their right documents. The model gives its vectors and the "
        "index finds what is there, so neither a repair nor a rollback will help.",
        fires=(
            AlertCase(name="drift, and the probes fall", series={drift("warn"): BEGINS, recall("probe",
                "warn"): BEGINS},
                 at="41m", labels={**INSTANCE, "state": "warn"},
                 beside={"EmbedshipDriftSuspected": {**INSTANCE, "state": "warn"},
                         "EmbedshipProbeRecallFell": {**INSTANCE, "source": "probe", "state": "warn"}}),
        ),
        quiet=(
            AlertCase(name="drift alone, for less than it takes", series={drift("warn"): "0x26 1x200"}, at="30m"),
            AlertCase(name="nobody knows how the index is", series={drift("warn"): "0x10 1x65",
                 recall("probe", "warn"): "0x10 1x65", recall("shadow", "unknown"): "1x75",
                 series("embedship_signal_watched", signal="shadow"): "1x75"}, at="1h",
                 beside={"EmbedshipDriftSuspected": {**INSTANCE, "state": "warn"},
                         "EmbedshipProbeRecallFell": {**INSTANCE, "source": "probe", "state": "warn"}}),
            AlertCase(name="nobody knows how the model is", series={drift("warn"): "0x10 1x65",
                 recall("probe", "warn"): "0x10 1x65", canary("unknown"): "1x75"}, at="1h",
                 beside={"EmbedshipDriftSuspected": {**INSTANCE, "state": "warn"},
                         "EmbedshipProbeRecallFell": {**INSTANCE, "source": "probe", "state": "warn"}}),
            AlertCase(name="the index explains it", series={drift("warn"): "0x59 1x9", recall("probe", "warn"): "1x60",
                 recall("shadow", "warn"): "0x59 1x9"}, at="1h"),
        ),
        runbook=Runbook(
            meaning="Drift is confirmed, probe recall fell, and neither canary nor index explains it: the model meets "
            "questions that it was not trained for.",
            impact="Quality is below what it was, and will stay there.",
            diagnosis=(
                "Read what EmbedshipProbeRecallFell says: stale labels look the same from afar.",
                "Look at ten drifted queries and their hits: would a person call them wrong?",
            ),
            mitigation=(
                "`embedship monitor export` writes drifted queries, failed probes, feedback and hard negatives as "
                "training data.",
                "Train, `embedship export`, `embedship index`, and serve the new bundle beside the old one first.",
            ),
        ),
    ),
)  # fmt: skip
