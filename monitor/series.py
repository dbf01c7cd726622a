"""TABLE: every Prometheus series of the monitor, one row each, with the function that reads its value from the status.

The collector and docs/metrics.md are generated from this table.
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

Value = tuple[tuple[str, ...], float]  # label values, and the value of the series
Read = Callable[[MonitorStatus], Iterable[Value]]


class MetricKind(StrEnum):
    """The Prometheus type of a series."""

    GAUGE = "gauge"
    COUNTER = "counter"  # exported with the suffix _total


class MetricSpec(NamedTuple):
    """One series: type, name without prefix, HELP text, label names, and the function that reads its values."""

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
    """One series per source; 0 where the source is not monitored."""
    return lambda status: [((s,), float(value(report)) if report else 0.0) for s, report in _recalls(status)]


def _devices(value: Callable[[DeviceCanary], float]) -> Read:
    return lambda status: [((each.device,), float(value(each))) for each in status.canary.devices]


def _choice(options: type[StrEnum], chosen: StrEnum) -> list[Value]:
    """1 for the current option, 0 for the others."""
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
    """0 for a signal that does not warn."""
    warns = {
        name: at for name, at in status.began.items() if getattr(status.diagnosis.signals, name) is SignalState.WARN
    }
    return [((signal,), warns.get(signal, 0.0)) for signal in MonitorSignals.__struct_fields__]


def _probe(name: str) -> Read:
    return _one(lambda status: getattr(status.probe, name) if status.probe else 0.0)


def _candidate(value: Callable[[CandidateReport], float]) -> Read:
    """0 if no candidate is compared."""
    return _one(lambda status: value(status.candidate) if status.candidate else 0.0)


def _candidate_skipped(status: MonitorStatus) -> list[Value]:
    report = status.candidate
    return [
        (("allowance",), float(report.allowance_skipped if report else 0)),
        (("busy",), float(report.busy_skipped if report else 0)),
    ]


def _candidate_latencies(status: MonitorStatus) -> Iterable[Value]:
    for side in CandidateSide:
        latency = getattr(status.candidate, side) if status.candidate else None
        yield (side, "median"), latency.median if latency else 0.0
        yield (side, "p99"), latency.p99 if latency else 0.0


def _candidate_probes(serving: Callable[[ProbeReport], float], own: Callable[[CandidateReport], float]) -> Read:
    """The labelled queries on both sides; 0 for a side without a result."""

    def read(status: MonitorStatus) -> list[Value]:
        compared = status.candidate
        return [
            ((CandidateSide.SERVING,), serving(status.probe) if compared and status.probe else 0.0),
            ((CandidateSide.CANDIDATE,), own(compared) if compared else 0.0),
        ]

    return read


G, C = MetricKind.GAUGE, MetricKind.COUNTER

TABLE = (
    # Diagnosis
    MetricSpec(G, "diagnosis", "The most likely cause of the current warnings: 1 for the current cause.", ("cause",),
           lambda status: _choice(DiagnosisCause, status.diagnosis.cause)),
    MetricSpec(G, "diagnosis_since_timestamp_seconds", "Unix time since which the diagnosis names its current cause.",
           (), _one(lambda status: status.diagnosis.since)),
    MetricSpec(G, "signal_watched", "1 if this signal is monitored. If it is 0, the state means nothing.",
           ("signal",), _watched),
    MetricSpec(G, "signal_since_timestamp_seconds", "Unix time since which the signal warns; 0 while it does not.",
           ("signal",), _began),
    # Drift
    MetricSpec(G, "drift_state", "State of drift by the configured rule: 1 for the current state.", ("state",),
           lambda status: _choice(SignalState, status.queries.drift.state)),
    MetricSpec(G, "drift_rule_warning", "1 if this rule detects drift, also if another rule is configured.", ("rule",),
           lambda status: [((DriftRule.TEN_PERCENT,), float(status.queries.drift.ten_percent)),
                           ((DriftRule.CALIBRATED,), float(status.queries.drift.calibrated))]),
    MetricSpec(G, "drift_score",
           "Squared shift of the mean, with more weight on new kinds of queries, relative to its value without drift; "
           "about 1 without drift.", (), _drift(lambda drift: drift.score)),
    MetricSpec(G, "drift_score_threshold", "Limit for the score, from the false-alarm budget.", (),
           _drift(lambda drift: drift.threshold)),
    MetricSpec(G, "drift_pvalue", "Probability of this score or a higher one in one evaluation without drift; 1 while "
           "unknown.", (), _drift(lambda drift: drift.pvalue)),
    MetricSpec(G, "drift_effect",
        "Shift of the mean beyond sampling noise, in standard deviations of the reference.", (),
           _drift(lambda drift: drift.effect)),
    MetricSpec(G, "drift_effect_floor", "Limit for the effect: a smaller shift does not matter.", (),
           _drift(lambda drift: drift.effect_floor)),
    MetricSpec(G, "drift_false_alarms_per_day",
           "False alarms: as promised by the budget, and as measured on the reference with its 95% interval.",
           ("kind",),
           lambda status: [(("promised",), status.queries.drift.promised_per_day),
                           (("measured",), status.queries.drift.measured_per_day),
                           (("measured_lower",), status.queries.drift.measured_lower_per_day),
                           (("measured_upper",), status.queries.drift.measured_upper_per_day)]),
    MetricSpec(G, "drift_dimensions_ratio",
           "Share of embedding dimensions whose KS test against the reference has p < 0.05.", (),
           _drift(lambda drift: drift.dimensions_ratio)),
    MetricSpec(G, "drift_bonferroni_dimensions_ratio",
           "Share of embedding dimensions that are significant after the Bonferroni correction.", (),
           _drift(lambda drift: drift.bonferroni_ratio)),
    MetricSpec(G, "drift_discovery_dimensions_ratio",
           "Share of embedding dimensions significant by Benjamini and Hochberg at a false discovery rate of 0.05.", (),
           _drift(lambda drift: drift.discovery_ratio)),
    MetricSpec(G, "drift_statistic_median",
           "Median KS distance over dimensions between recent queries and the reference, 0 to 1.", (),
           _drift(lambda drift: drift.statistic_median)),
    MetricSpec(G, "drift_statistic_noise",
           "Median KS distance of the reference to itself at the same sample sizes: its value without drift.", (),
           _drift(lambda drift: drift.statistic_noise)),
    MetricSpec(G, "drift_far_ratio", "Share of recent queries that belong to no topic of the reference.", (),
           _one(lambda status: status.queries.evidence.far.now if status.queries.evidence.far else 0.0)),
    MetricSpec(G, "drift_far_usual_ratio",
        "The same share without drift, measured on held-out parts of the reference.", (),
           _one(lambda status: status.queries.evidence.far.then if status.queries.evidence.far else 0.0)),
    MetricSpec(G, "drift_window_queries", "Queries in the window that is tested for drift.", (),
           _drift(lambda drift: drift.samples)),
    MetricSpec(G, "drift_distinct_queries", "Distinct queries in the window: the number tested.", (),
           _drift(lambda drift: drift.distinct)),
    MetricSpec(G, "drift_effective_queries", "Number of independent queries with as much evidence as the window.", (),
           _drift(lambda drift: drift.effective)),
    MetricSpec(G, "drift_reference_queries", "Query vectors in the drift reference.", (),
           _drift(lambda drift: drift.reference)),
    MetricSpec(G, "drift_interval_seconds", "Configured seconds between evaluations of drift.", (),
           _one(lambda status: status.queries.interval_seconds)),
    MetricSpec(C, "drift_evaluations", "Evaluations of drift.", (), _one(lambda status: status.queries.evaluations)),
    # Recall
    MetricSpec(G, "recall_state", "State of recall by the configured rule: 1 for the current state.",
           ("source", "state"), _recall_states),
    MetricSpec(G, "recall_rule_warning", "1 if this rule detects a fall of recall, also if another rule is configured.",
           ("source", "rule"), _recall_rules),
    MetricSpec(C, "recall_queries", "Queries whose answer was compared with the correct answer.", ("source",),
           _recall(lambda recall: recall.queries)),
    MetricSpec(C, "recall_found", "Correct hits that were in the answers.", ("source",),
           _recall(lambda recall: recall.found)),
    MetricSpec(C, "recall_expected", "Correct hits that should have been in the answers, at most 10 per query.",
           ("source",), _recall(lambda recall: recall.expected)),
    MetricSpec(G, "recall_rolling_ratio", "Mean recall@10 over the last 500 queries, or the last replay of the probes.",
           ("source",), _recall(lambda recall: recall.rolling)),
    MetricSpec(G, "recall_rolling_lower_ratio", "Lower end of its 95% interval, with the query as unit.", ("source",),
           _recall(lambda recall: recall.lower)),
    MetricSpec(G, "recall_rolling_upper_ratio", "Upper end of its 95% interval, with the query as unit.", ("source",),
           _recall(lambda recall: recall.upper)),
    MetricSpec(G, "recall_baseline_ratio", "Recall that recent recall is compared with; 0 while unknown.", ("source",),
           _recall(lambda recall: recall.baseline)),
    MetricSpec(G, "recall_evidence", "Evidence that recall is below its baseline, accumulated query by query.",
        ("source",),
           _recall(lambda recall: recall.evidence)),
    MetricSpec(G, "recall_evidence_limit", "Evidence at which it warns: the mean number of queries per false alarm.",
           ("source",), _recall(lambda recall: recall.evidence_limit)),
    MetricSpec(C, "shadow_skipped_queries", "Sampled queries not searched exactly: the CPU budget was used up.", (),
           _one(lambda status: status.queries.shadow.skipped)),
    MetricSpec(C, "shadow_search_seconds", "Time spent in exact searches.", (),
           _one(lambda status: status.queries.shadow.seconds)),
    MetricSpec(G, "probe_queries", "Labelled queries that are replayed.", (), _probe("queries")),
    MetricSpec(C, "probe_replays", "Complete replays of the labelled queries.", (), _probe("replays")),
    MetricSpec(C, "probe_failures", "Replays that were aborted.", (), _probe("failures")),
    MetricSpec(G, "probe_ndcg_ratio", "Mean nDCG@10 of the last complete replay.", (), _probe("ndcg")),
    MetricSpec(G, "probe_ndcg_baseline_ratio", "Mean nDCG@10 of the first complete replay; 0 while unknown.", (),
           _probe("ndcg_baseline")),
    MetricSpec(G, "probe_missing_labels", "Labels of the labelled queries whose document is not in the index.",
        (),
           _probe("missing")),
    MetricSpec(G, "probe_last_replay_timestamp_seconds", "Unix time of the last complete replay; 0 before the first.",
           (),
           _probe("replayed_at")),
    MetricSpec(G, "feedback_answers", "Answered queries for which feedback can still be given.", (),
           _one(lambda status: status.feedback.answers if status.feedback else 0.0)),
    # A candidate compared with the serving model and index
    MetricSpec(G, "candidate_watched", "1 if a candidate is compared with the serving model and index.", (),
           _one(lambda status: status.candidate is not None)),
    MetricSpec(C, "candidate_queries", "Searches that the candidate answered as well.", (),
           _candidate(lambda report: report.queries)),
    MetricSpec(C, "candidate_skipped_queries", "Sampled searches that were not sent to the candidate, by reason.",
           ("reason",), _candidate_skipped),
    MetricSpec(C, "candidate_failures", "Searches that failed on the candidate.", (),
           _candidate(lambda report: report.failures)),
    MetricSpec(C, "candidate_overlap_found",
        "Documents among the first 10 served that the candidate also has among its first 10.", (),
           _candidate(lambda report: report.found)),
    MetricSpec(C, "candidate_overlap_expected", "Documents among the first 10 served.", (),
           _candidate(lambda report: report.expected)),
    MetricSpec(G, "candidate_overlap_ratio", "Mean overlap@10 of the last 500 compared searches.", (),
           _candidate(lambda report: report.overlap)),
    MetricSpec(C, "candidate_search_seconds", "Total time of the candidate's searches, from text to hits.", (),
           _candidate(lambda report: report.seconds)),
    MetricSpec(G, "candidate_latency_seconds", "Time from text to hits over the last 500 searches with one query; "
           "for serving it includes the queue.", ("side", "statistic"), _candidate_latencies),
    MetricSpec(G, "candidate_probe_queries", "Labelled queries that were sent to the candidate.", (),
           _candidate(lambda report: report.probes)),
    MetricSpec(G, "candidate_probe_recall_ratio", "Recall@10 of the labelled queries, for both sides.", ("side",),
           _candidate_probes(lambda probe: probe.recall.rolling, lambda report: report.probe_recall)),
    MetricSpec(G, "candidate_probe_ndcg_ratio", "Mean nDCG@10 of the labelled queries, for both sides.", ("side",),
           _candidate_probes(lambda probe: probe.ndcg, lambda report: report.probe_ndcg)),
    # Canaries
    MetricSpec(G, "canary_state", "State of the canaries: 1 for the current state.", ("state",),
           lambda status: _choice(SignalState, status.canary.state)),
    MetricSpec(G, "canary_cosine",
        "Lowest cosine of the canary texts to the checkpoint's vectors (golden) and to the vectors at "
           "start; 0 before the first round.", ("device", "against"), _cosines),
    MetricSpec(G, "canary_cosine_floor", "Limit for the cosine: below it the device gives wrong vectors.",
           ("device", "against"), _floors),
    MetricSpec(C, "canary_texts", "Canary texts encoded. No other metric counts them.", ("device",),
           _devices(lambda device: device.texts)),
    MetricSpec(C, "canary_failures", "Canary rounds that failed with an error.", ("device",),
           _devices(lambda device: device.failures)),
    MetricSpec(G, "canary_last_round_timestamp_seconds", "Unix time of the last canary round; 0 before the first.",
        ("device",),
           _devices(lambda device: device.checked_at)),
    # The monitor itself
    MetricSpec(C, "monitor_queries", "Queries observed by the monitor.", (), _one(lambda status: status.queries.seen)),
    MetricSpec(C, "monitor_dropped", "Sampled queries not examined, because the queue was full or closed.", (),
           _one(lambda status: status.queries.dropped)),
    MetricSpec(C, "monitor_failures", "Exceptions inside the monitor, by part.", ("part",),
           lambda status: [((part,), count) for part, count in msgspec.structs.asdict(status.failures).items()]),
    MetricSpec(C, "monitor_evaluation_seconds", "Time spent on evaluations of drift.", (),
           _one(lambda status: status.queries.evaluation_seconds)),
    MetricSpec(G, "monitor_last_evaluation_timestamp_seconds",
           "Unix time of the last evaluation of drift; 0 before the first.", (),
           _one(lambda status: status.queries.evaluated_at)),
    MetricSpec(C, "snapshot_writes", "Number of times the monitor's state was saved.", (),
           _one(lambda status: status.snapshot.written)),
    MetricSpec(G, "snapshot_bytes", "Size of the last saved state in bytes; 0 before the first.", (),
           _one(lambda status: status.snapshot.bytes)),
    MetricSpec(G, "snapshot_last_timestamp_seconds", "Unix time of the last saved state; 0 before the first.", (),
           _one(lambda status: status.snapshot.written_at)),
    MetricSpec(G, "snapshot_restored", "1 if this server continued from the saved state of an earlier one.", (),
           _one(lambda status: status.snapshot.restored)),
)  # fmt: skip
