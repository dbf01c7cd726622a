"""The devices as Prometheus series, computed at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.devices import ServingDevice

Read = Callable[[ServingDevice], float]

_LABELS = ("device",)


class DevicesCollector(Collector):
    """Export the devices of the workers that work now: after a reload, other ones with the same names."""

    def __init__(self, workers: Callable[[], Sequence[BatchExecutor]]) -> None:
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        workers = self._workers()
        devices = [device for each in workers for device in each.table]
        up = GaugeMetricFamily("embedship_device_up", "1 while the device takes batches.", labels=_LABELS)
        yield _filled(up, devices, lambda each: each.up)
        yield _counter("restarts_total", "Times its process was started again.", devices, lambda each: each.restarts)
        yield _counter("batches_total", "Batches run on it, failed ones too.", devices, lambda each: each.pulse.batches)
        yield _counter(
            "busy_seconds_total", "Time in forward passes, summed over its streams.", devices,
            lambda each: each.pulse.busy_seconds,
        )  # fmt: skip
        yield CounterMetricFamily(
            "embedship_retried_batches_total",
            "Batches tried again because their device died.",
            sum(each.retried for each in workers),
        )
        yield CounterMetricFamily(
            "embedship_split_batches_total",
            "Batches taken apart to find the text that fails.",
            sum(each.split for each in workers),
        )

    def describe(self) -> Iterable[Metric]:
        """The names, for the registry's check for duplicates."""
        return self.collect()


def _counter(name: str, meaning: str, devices: Iterable[ServingDevice], read: Read) -> Metric:
    return _filled(CounterMetricFamily(f"embedship_device_{name}", meaning, labels=_LABELS), devices, read)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, devices: Iterable[ServingDevice], read: Read) -> Metric:
    for device in devices:
        family.add_metric((device.name,), float(read(device)))
    return family
