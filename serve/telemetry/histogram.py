"""Histograms that one thread writes to: prometheus_client's take two locks and 1.5 us an observation, these 0.2 us.

With seven observations a request that is a hundredth of a query's time. A scrape reads them on the same thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class HistogramSeries:
    """One series: how many observations fell into which bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last: above every bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class HistogramFamily(Collector):
    """A family of series, told apart by one label, or a single series without one. Bounds ascend, and belong below."""

    def __init__(
        self, name: str, help: str, label: str | None, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._help = name, help
        self._label = () if label is None else (label,)
        self._bounds = tuple(bounds)
        self._shown = [*map(floatToGoString, self._bounds), "+Inf"]
        self._tallies: dict[tuple[str, ...], HistogramSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        """The series of this value of the label, from now on shown at zero."""
        assert len(values) == len(self._label), "a value a label"
        return self._tallies.setdefault(values, HistogramSeries(self._bounds))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._help, labels=self._label)
        for values, tally in list(self._tallies.items()):
            buckets = list(zip(self._shown, map(float, accumulate(tally.counts)), strict=True))
            family.add_metric(values, buckets, tally.sum)
        return [family]

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """The name, for the registry's check for duplicates."""
        return self.collect()
