"""MonitorCollector: exports the monitor's status as Prometheus series, computed at scrape time."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedship.monitor.monitor import MonitorStatus
from embedship.monitor.series import TABLE, MetricKind, MetricSpec

PREFIX = "embedship_"


class MonitorCollector(Collector):
    """Exports a status. Every series exists from the first scrape, with value 0.

    A ratio of 0 without evidence means nothing: its state is then `unknown`. So an alert must also check the state, or
    divide counters. It must never compare a ratio alone.

        registry.register(MonitorCollector(monitor.report))
    """

    def __init__(self, report: Callable[[], MonitorStatus]) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        """Return all series with their current values."""
        status = self._report()
        return [_family(series, status) for series in TABLE]

    def describe(self) -> Iterable[Metric]:
        """Return the series, for the registry's check for duplicate names."""
        return self.collect()


def _family(series: MetricSpec, status: MonitorStatus) -> Metric:
    kind = CounterMetricFamily if series.kind is MetricKind.COUNTER else GaugeMetricFamily
    family = kind(PREFIX + series.name, series.meaning, labels=series.labels)
    for labels, value in series.read(status):
        family.add_metric(labels, value)
    return family
