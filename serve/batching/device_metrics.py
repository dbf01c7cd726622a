"""Prometheus metrics of the devices, computed at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.devices import ServingDevice

Read = Callable[[ServingDevice], float]

_LABELS = ("device",)


class DevicesCollector(Collector):
    """Exports the devices of the current executors. After a reload these are other devices with the same names."""

    def __init__(self, workers: Callable[[], Sequence[BatchExecutor]]) -> None:
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        workers = self._workers()
        devices = [device for each in workers for device in each.serving_devices]
        up = GaugeMetricFamily("embedship_device_up", "1 while the device accepts batches, else 0.", labels=_LABELS)
        yield _fill(up, devices, lambda each: each.up)
        yield _counter(
            "restarts_total", "Restarts of the worker process of the device.", devices, lambda each: each.restarts
        )
        yield _counter(
            "batches_total", "Batches that ran on the device, including failed ones.", devices,
            lambda each: each.hang_detector.batches,
        )  # fmt: skip
        yield _counter(
            "busy_seconds_total", "Seconds spent in forward passes, summed over the streams of the device.", devices,
            lambda each: each.hang_detector.busy_seconds,
        )  # fmt: skip
        yield CounterMetricFamily(
            "embedship_retried_batches_total",
            "Batches that were retried because their device died.",
            sum(each.retried for each in workers),
        )
        yield CounterMetricFamily(
            "embedship_split_batches_total",
            "Batches that were split to find the text that fails.",
            sum(each.split for each in workers),
        )

    def describe(self) -> Iterable[Metric]:
        """Return the metric names, which the registry checks for duplicates."""
        return self.collect()


def _counter(name: str, meaning: str, devices: Iterable[ServingDevice], read: Read) -> Metric:
    return _fill(CounterMetricFamily(f"embedship_device_{name}", meaning, labels=_LABELS), devices, read)


def _fill(family: CounterMetricFamily | GaugeMetricFamily, devices: Iterable[ServingDevice], read: Read) -> Metric:
    for device in devices:
        family.add_metric((device.name,), float(read(device)))
    return family
