"""Every Prometheus series of the monitor: one row each, from name to where its value is found. The collector and
docs/metrics.md are made from this table.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from embedship.monitor.canary import DeviceCanary
from embedship.monitor.diagnosis import DiagnosisCause, MonitorSignals
from embedship.monitor.drift.detector import DriftReport, DriftRule
from embedship.monitor.monitor import MonitorStatus
from embedship.monitor.recall.candidate import CandidateReport, CandidateSide
from embedship.monitor.recall.probes import ProbeReport
from embedship.monitor.recall.rolling import RecallReport, RecallRule
from embedship.monitor.recall.source import RecallSource
from embedship.monitor.state import SignalState

Value = tuple[tuple[str, ...], float]  # of the labels, and of the series
Read = Callable[[MonitorStatus], Iterable[Value]]


class MetricKind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"  # exported with the suffix _total


class MetricSpec(NamedTuple):
    kind: MetricKind
    name: str
    meaning: str
    labels: tuple[str, ...]
    read: Read


def _one(value: Callable[[MonitorStatus], float]) -> Read:
    return lambda status: [((), float(value(status)))]


def _drift(value: Callable[[DriftReport], float]) -> Read:
    return _one(lambda status: value(status.queries.drift))


def _recalls(status: MonitorStatus) -> list[tuple[RecallSource, RecallReport | None]]:
    return [
        (RecallSource.SHADOW, status.queries.shadow.recall),
        (RecallSource.PROBE, status.probe.recall if status.probe else None),
        (RecallSource.FEEDBACK, status.feedback.recall if status.feedback else None),
    ]


def _recall(value: Callable[[RecallReport], float]) -> Read:
    """One series a source, 0 where it is not watched."""
    return lambda status: [((s,), float(value(report)) if report else 0.0) for s, report in _recalls(status)]


def _devices(value: Callable[[DeviceCanary], float]) -> Read:
    return lambda status: [((each.device,), float(value(each))) for each in status.canary.devices]


def _choice(options: type[StrEnum], chosen: StrEnum) -> list[Value]:
    """1 for what is, 0 for what might be."""
    return [((option,), float(option is chosen)) for option in options]


def _recall_states(status: MonitorStatus) -> list[Value]:
    states = [(source, report.state if report else SignalState.UNKNOWN) for source, report in _recalls(status)]
    return [((source, *option), value) for source, state in states for option, value in _choice(SignalState, state)]


def _recall_rules(status: MonitorStatus) -> Iterable[Value]:
    for source, report in _recalls(status):
        yield (source, RecallRule.NINETY_PERCENT), float(report is not None and report.ninety_percent)
        yield (source, RecallRule.CUSUM), float(report is not None and report.cusum)


def _cosines(status: MonitorStatus) -> Iterable[Value]:
    for each in status.canary.devices:
        yield (each.device, "golden"), each.golden
        yield (each.device, "start"), each.start


def _floors(status: MonitorStatus) -> Iterable[Value]:
    for each in status.canary.devices:
        yield (each.device, "golden"), each.golden_floor
        yield (each.device, "start"), status.canary.start_floor


def _watched(status: MonitorStatus) -> list[Value]:
    return [
        ((signal,), float(getattr(status.diagnosis.signals, signal) is not None))
        for signal in MonitorSignals.__struct_fields__
    ]


def _began(status: MonitorStatus) -> list[Value]:
    """0 where the signal does not warn."""
    warns = {
        name: at for name, at in status.began.items() if getattr(status.diagnosis.signals, name) is SignalState.WARN
    }
    return [((signal,), warns.get(signal, 0.0)) for signal in MonitorSignals.__struct_fields__]


def _probe(name: str) -> Read:
    return _one(lambda status: getattr(status.probe, name) if status.probe else 0.0)


def _candidate(value: Callable[[CandidateReport], float]) -> Read:
    """0 while no candidate is compared."""
    return _one(lambda status: value(status.candidate) if status.candidate else 0.0)


def _candidate_skipped(status: MonitorStatus) -> list[Value]:
    found = status.candidate
    return [
        (("allowance",), float(found.allowance_skipped if found else 0)),
        (("busy",), float(found.busy_skipped if found else 0)),
    ]


def _candidate_latencies(status: MonitorStatus) -> Iterable[Value]:
    for side in CandidateSide:
        latency = getattr(status.candidate, side) if status.candidate else None
        yield (side, "median"), latency.median if latency else 0.0
        yield (side, "p99"), latency.p99 if latency else 0.0


def _candidate_probes(serving: Callable[[ProbeReport], float], own: Callable[[CandidateReport], float]) -> Read:
    """Both sides of the labelled probes, 0 where nothing was asked."""

    def read(status: MonitorStatus) -> list[Value]:
        compared = status.candidate
        return [
            ((CandidateSide.SERVING,), serving(status.probe) if compared and status.probe else 0.0),
            ((CandidateSide.CANDIDATE,), own(compared) if compared else 0.0),
        ]

    return read


G, C = MetricKind.GAUGE, MetricKind.COUNTER

TABLE = (
    # The verdict
    MetricSpec(G, "diagnosis", "What the signals together point to: 1 for the present cause.", ("cause",),
           lambda status: _choice(DiagnosisCause, status.diagnosis.cause)),
    MetricSpec(G, "diagnosis_since_timestamp_seconds", "Unix time at which the present cause was first found.", (),
           _one(lambda status: status.diagnosis.since)),
    MetricSpec(G, "signal_watched", "1 if this signal is watched at all: a state of what is not watched means nothing.",
           ("signal",), _watched),
    MetricSpec(G, "signal_since_timestamp_seconds", "Unix time since which the signal warns; 0 while it does not.",
           ("signal",), _began),
    # Drift
    MetricSpec(G, "drift_state", "Drift by the configured rule: 1 for the present state.", ("state",),
           lambda status: _choice(SignalState, status.queries.drift.state)),
    MetricSpec(G, "drift_rule_warning", "1 if this rule sees drift, whichever rule is configured.", ("rule",),
           lambda status: [((DriftRule.TEN_PERCENT,), float(status.queries.drift.ten_percent)),
                           ((DriftRule.CALIBRATED,), float(status.queries.drift.calibrated))]),
    MetricSpec(G, "drift_score",
           "Squared shift of the mean, new queries counting more, relative to no drift; about 1 without drift.", (),
           _drift(lambda drift: drift.score)),
    MetricSpec(G, "drift_score_threshold", "What the score must exceed, by the false-alarm budget.", (),
           _drift(lambda drift: drift.threshold)),
    MetricSpec(G, "drift_pvalue", "Chance of such a score in one evaluation without drift; 1 while unknown.", (),
           _drift(lambda drift: drift.pvalue)),
    MetricSpec(G, "drift_effect",
        "Shift of the mean beyond sampling noise, in standard deviations of the reference.", (),
           _drift(lambda drift: drift.effect)),
    MetricSpec(G, "drift_effect_floor", "What the effect must exceed to matter.", (),
           _drift(lambda drift: drift.effect_floor)),
    MetricSpec(G, "drift_false_alarms_per_day",
           "False alarms: promised by the budget, and measured on the reference, with its 95% interval.", ("kind",),
           lambda status: [(("promised",), status.queries.drift.promised_per_day),
                           (("measured",), status.queries.drift.measured_per_day),
                           (("measured_lower",), status.queries.drift.measured_lower_per_day),
                           (("measured_upper",), status.queries.drift.measured_upper_per_day)]),
    MetricSpec(G, "drift_dimensions_ratio",
           "Share of embedding dimensions whose KS test against the reference has p < 0.05.", (),
           _drift(lambda drift: drift.dimensions_ratio)),
    MetricSpec(G, "drift_bonferroni_dimensions_ratio",
           "Share of embedding dimensions that are significant after Bonferroni's correction.", (),
           _drift(lambda drift: drift.bonferroni_ratio)),
    MetricSpec(G, "drift_discovery_dimensions_ratio",
           "Share of embedding dimensions found by Benjamini and Hochberg at a false discovery rate of 0.05.", (),
           _drift(lambda drift: drift.discovery_ratio)),
    MetricSpec(G, "drift_statistic_median",
           "Median KS distance over dimensions between recent queries and the reference, 0 to 1.", (),
           _drift(lambda drift: drift.statistic_median)),
    MetricSpec(G, "drift_statistic_noise",
           "Median KS distance of the reference against itself, at the same sizes: what no drift looks like.", (),
           _drift(lambda drift: drift.statistic_noise)),
    MetricSpec(G, "drift_far_ratio", "Share of queries that belong to no topic of the reference.", (),
           _one(lambda status: status.queries.evidence.far.now if status.queries.evidence.far else 0.0)),
    MetricSpec(G, "drift_far_usual_ratio",
        "The same share without drift, as held-out parts of the reference show it.", (),
           _one(lambda status: status.queries.evidence.far.then if status.queries.evidence.far else 0.0)),
    MetricSpec(G, "drift_window_queries", "Queries in the window that drift is tested on.", (),
           _drift(lambda drift: drift.samples)),
    MetricSpec(G, "drift_distinct_queries", "Distinct queries in the window, the number tested.", (),
           _drift(lambda drift: drift.distinct)),
    MetricSpec(G, "drift_effective_queries", "Independent queries that carry as much evidence as the window.", (),
           _drift(lambda drift: drift.effective)),
    MetricSpec(G, "drift_reference_queries", "Query vectors in the drift reference.", (),
           _drift(lambda drift: drift.reference)),
    MetricSpec(G, "drift_interval_seconds", "Seconds between evaluations of drift, as set.", (),
           _one(lambda status: status.queries.interval_seconds)),
    MetricSpec(C, "drift_evaluations", "Evaluations of drift.", (), _one(lambda status: status.queries.evaluations)),
    # Recall
    MetricSpec(G, "recall_state", "Recall by the configured rule: 1 for the present state.", ("source", "state"),
           _recall_states),
    MetricSpec(G, "recall_rule_warning", "1 if this rule sees a fall of recall, whichever rule is configured.",
           ("source", "rule"), _recall_rules),
    MetricSpec(C, "recall_queries", "Queries whose answer was compared with what is right.", ("source",),
           _recall(lambda recall: recall.queries)),
    MetricSpec(C, "recall_found", "Right hits that were answered.", ("source",), _recall(lambda recall: recall.found)),
    MetricSpec(C, "recall_expected", "Right hits that should have been, at most 10 a query.", ("source",),
           _recall(lambda recall: recall.expected)),
    MetricSpec(G, "recall_rolling_ratio", "Mean recall@10 over the last 500 queries, or the last replay of the probes.",
           ("source",), _recall(lambda recall: recall.rolling)),
    MetricSpec(G, "recall_rolling_lower_ratio", "Lower end of its 95% interval, by query.", ("source",),
           _recall(lambda recall: recall.lower)),
    MetricSpec(G, "recall_rolling_upper_ratio", "Upper end of its 95% interval, by query.", ("source",),
           _recall(lambda recall: recall.upper)),
    MetricSpec(G, "recall_baseline_ratio", "Recall that a warning compares with; 0 while unknown.", ("source",),
           _recall(lambda recall: recall.baseline)),
    MetricSpec(G, "recall_evidence", "Evidence that recall is below its baseline, gathered query by query.",
        ("source",),
           _recall(lambda recall: recall.evidence)),
    MetricSpec(G, "recall_evidence_limit", "Evidence from which it warns: queries between false alarms, on average.",
           ("source",), _recall(lambda recall: recall.evidence_limit)),
    MetricSpec(C, "shadow_skipped_queries", "Sampled queries not searched exactly, the allowance being spent.", (),
           _one(lambda status: status.queries.shadow.skipped)),
    MetricSpec(C, "shadow_search_seconds", "Time spent in exact searches.", (),
           _one(lambda status: status.queries.shadow.seconds)),
    MetricSpec(G, "probe_queries", "Labelled queries that are replayed.", (), _probe("queries")),
    MetricSpec(C, "probe_replays", "Whole replays of the probes.", (), _probe("replays")),
    MetricSpec(C, "probe_failures", "Replays given up.", (), _probe("failures")),
    MetricSpec(G, "probe_ndcg_ratio", "Mean nDCG@10 of the last whole replay.", (), _probe("ndcg")),
    MetricSpec(G, "probe_ndcg_baseline_ratio", "Mean nDCG@10 of the first whole replay; 0 while unknown.", (),
           _probe("ndcg_baseline")),
    MetricSpec(G, "probe_missing_labels", "Labels of the probes that name a document which the index does not hold.",
        (),
           _probe("missing")),
    MetricSpec(G, "probe_last_replay_timestamp_seconds", "Unix time of the last whole replay; 0 before the first.", (),
           _probe("replayed_at")),
    MetricSpec(G, "feedback_answers", "Answered queries that can still be judged.", (),
           _one(lambda status: status.feedback.answers if status.feedback else 0.0)),
    # A candidate beside what serves
    MetricSpec(G, "candidate_watched", "1 if a candidate is compared with what serves.", (),
           _one(lambda status: status.candidate is not None)),
    MetricSpec(C, "candidate_queries", "Searches that the candidate answered, too.", (),
           _candidate(lambda found: found.queries)),
    MetricSpec(C, "candidate_skipped_queries", "Sampled searches that the candidate was not asked, by reason.",
           ("reason",), _candidate_skipped),
    MetricSpec(C, "candidate_failures", "Searches that failed on the candidate.", (),
           _candidate(lambda found: found.failures)),
    MetricSpec(C, "candidate_overlap_found",
        "Documents served among the first 10 that the candidate has there, too.", (),
           _candidate(lambda found: found.found)),
    MetricSpec(C, "candidate_overlap_expected", "Documents served among the first 10.", (),
           _candidate(lambda found: found.expected)),
    MetricSpec(G, "candidate_overlap_ratio", "Mean overlap@10 of the last 500 searches compared.", (),
           _candidate(lambda found: found.overlap)),
    MetricSpec(C, "candidate_search_seconds", "Time that the candidate took in all, from text to hits.", (),
           _candidate(lambda found: found.seconds)),
    MetricSpec(G, "candidate_latency_seconds", "From text to hits, over the last 500 searches of one query; serving "
           "waits for its queue, the candidate for nobody.", ("side", "statistic"), _candidate_latencies),
    MetricSpec(G, "candidate_probe_queries", "Labelled queries that the candidate was asked.", (),
           _candidate(lambda found: found.probes)),
    MetricSpec(G, "candidate_probe_recall_ratio", "Recall@10 of the labelled queries, on both.", ("side",),
           _candidate_probes(lambda probe: probe.recall.rolling, lambda found: found.probe_recall)),
    MetricSpec(G, "candidate_probe_ndcg_ratio", "Mean nDCG@10 of the labelled queries, on both.", ("side",),
           _candidate_probes(lambda probe: probe.ndcg, lambda found: found.probe_ndcg)),
    # Canaries
    MetricSpec(G, "canary_state", "Canaries: 1 for the present state.", ("state",),
           lambda status: _choice(SignalState, status.canary.state)),
    MetricSpec(G, "canary_cosine",
        "Lowest cosine of the canary texts, to the checkpoint (golden) and to the vectors at "
           "start; 0 before the first round.", ("device", "against"), _cosines),
    MetricSpec(G, "canary_cosine_floor", "Below this cosine the device is damaged.", ("device", "against"), _floors),
    MetricSpec(C, "canary_texts", "Canary texts encoded; no other metric counts them.", ("device",),
           _devices(lambda device: device.texts)),
    MetricSpec(C, "canary_failures", "Canary rounds that ended in an error.", ("device",),
           _devices(lambda device: device.failures)),
    MetricSpec(G, "canary_last_round_timestamp_seconds", "Unix time of the last round; 0 before the first.",
        ("device",),
           _devices(lambda device: device.checked_at)),
    # The monitor itself
    MetricSpec(C, "monitor_queries", "Queries shown to the monitor.", (), _one(lambda status: status.queries.seen)),
    MetricSpec(C, "monitor_dropped", "Sampled queries not looked at, the queue being full or closed.", (),
           _one(lambda status: status.queries.dropped)),
    MetricSpec(C, "monitor_failures", "Exceptions caught while monitoring, by part.", ("part",),
           lambda status: [((part,), count) for part, count in msgspec.structs.asdict(status.failures).items()]),
    MetricSpec(C, "monitor_evaluation_seconds", "Time spent evaluating drift.", (),
           _one(lambda status: status.queries.evaluation_seconds)),
    MetricSpec(G, "monitor_last_evaluation_timestamp_seconds",
           "Unix time of the last evaluation of drift; 0 before the first.", (),
           _one(lambda status: status.queries.evaluated_at)),
    MetricSpec(C, "snapshot_writes", "Snapshots of the monitor's state written.", (),
           _one(lambda status: status.snapshot.written)),
    MetricSpec(G, "snapshot_bytes", "Size of the last snapshot; 0 before the first.", (),
           _one(lambda status: status.snapshot.bytes)),
    MetricSpec(G, "snapshot_last_timestamp_seconds", "Unix time of the last snapshot; 0 before the first.", (),
           _one(lambda status: status.snapshot.written_at)),
    MetricSpec(G, "snapshot_restored", "1 if this server went on where another one ended.", (),
           _one(lambda status: status.snapshot.restored)),
)  # fmt: skip
