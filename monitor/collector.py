"""The observer's report as Prometheus series, computed at scrape time."""

from collections.abc import Callable, Iterable, Iterator

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from embedship.monitor.drift import DriftReport, Rule
from embedship.monitor.observer import Report
from embedship.monitor.recall import RecallReport
from embedship.monitor.state import State


class MonitorCollector(Collector):
    """Export a report. Every series is there from the first scrape, at 0.

    A ratio of 0 without evidence means nothing: its state is then `unknown`, and an alert must ask for the state, or
    divide counters, and not compare a bare ratio.

        registry.register(MonitorCollector(observer.report))
    """

    def __init__(self, report: Callable[[], Report]) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        report = self._report()
        yield from _drift(report.drift)
        yield from _recall(report.recall)
        yield from _monitor(report)

    def describe(self) -> Iterable[Metric]:
        """The names, for the registry's check for duplicates; they do not depend on what was measured."""
        return self.collect()


def _drift(drift: DriftReport) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "embedship_drift_dimensions_ratio",
        "Share of embedding dimensions whose KS test against the reference has p < 0.05.",
        drift.dimensions_ratio,
    )
    yield GaugeMetricFamily(
        "embedship_drift_bonferroni_dimensions_ratio",
        "Share of embedding dimensions that are significant after Bonferroni's correction.",
        drift.bonferroni_ratio,
    )
    yield GaugeMetricFamily(
        "embedship_drift_statistic_median",
        "Median KS distance over dimensions between recent queries and the reference, 0 to 1.",
        drift.statistic_median,
    )
    yield GaugeMetricFamily(
        "embedship_drift_statistic_noise",
        "Median KS distance of the reference against itself, at the same sizes: what no drift looks like.",
        drift.statistic_noise,
    )
    yield GaugeMetricFamily(
        "embedship_drift_window_queries", "Queries in the window that drift is tested on.", drift.samples
    )
    yield GaugeMetricFamily(
        "embedship_drift_distinct_queries", "Distinct queries in the window, the number tested.", drift.distinct
    )
    yield GaugeMetricFamily(
        "embedship_drift_reference_queries", "Query vectors in the drift reference.", drift.reference
    )
    yield _state("embedship_drift_state", "Drift by the configured rule: 1 for the present state.", drift.state)
    rules = GaugeMetricFamily(
        "embedship_drift_rule_warning", "1 if this rule sees drift, whichever rule is configured.", labels=["rule"]
    )
    rules.add_metric([Rule.TEN_PERCENT], drift.ten_percent)
    rules.add_metric([Rule.CALIBRATED], drift.calibrated)
    yield rules


def _recall(recall: RecallReport) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "embedship_recall_queries", "Sampled queries whose answer was compared with an exact search.", recall.queries
    )
    yield CounterMetricFamily("embedship_recall_found", "Exact hits that the index found.", recall.found)
    yield CounterMetricFamily("embedship_recall_expected", "Exact hits that it should have found.", recall.expected)
    yield GaugeMetricFamily(
        "embedship_recall_rolling_ratio", "Mean recall@k over the last 5 windows of 100 queries.", recall.rolling
    )
    yield GaugeMetricFamily(
        "embedship_recall_rolling_lower_ratio", "Lower end of its 95% interval, by query.", recall.lower
    )
    yield GaugeMetricFamily(
        "embedship_recall_rolling_upper_ratio", "Upper end of its 95% interval, by query.", recall.upper
    )
    yield GaugeMetricFamily(
        "embedship_recall_baseline_ratio", "Recall that a warning compares with; 0 while unknown.", recall.baseline
    )
    yield _state("embedship_recall_state", "Recall against 0.9 x baseline: 1 for the present state.", recall.state)


def _monitor(report: Report) -> Iterator[Metric]:
    yield CounterMetricFamily("embedship_monitor_queries", "Queries shown to the monitor.", report.seen)
    yield CounterMetricFamily(
        "embedship_monitor_dropped", "Sampled queries not looked at, the queue being full or closed.", report.dropped
    )
    failures = CounterMetricFamily(
        "embedship_monitor_failures", "Exceptions caught while monitoring, by part.", labels=["part"]
    )
    for part, count in msgspec.structs.asdict(report.failures).items():
        failures.add_metric([part], count)
    yield failures
    yield CounterMetricFamily("embedship_drift_evaluations", "Evaluations of drift.", report.evaluations)
    yield SummaryMetricFamily(
        "embedship_monitor_evaluation_seconds",
        "Time spent evaluating drift.",
        count_value=report.evaluations,
        sum_value=report.evaluation_seconds,
    )
    yield GaugeMetricFamily(
        "embedship_monitor_last_evaluation_timestamp_seconds",
        "Unix time of the last evaluation of drift; 0 before the first.",
        report.evaluated_at,
    )


def _state(name: str, documentation: str, state: State) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["state"])
    for each in State:
        family.add_metric([each], float(each is state))
    return family
