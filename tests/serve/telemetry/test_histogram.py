"""Our histogram against prometheus_client's: the same observations give the same scrape, byte for byte."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily

from embedship.serve.telemetry.histogram import HistogramFamily

BOUNDS = (0.0, 0.00005, 0.25, 1, 1024.0)
values = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 2_000)), max_size=20)


def samples(registry: CollectorRegistry) -> list[tuple[str, dict[str, str], float]]:
    families = [each for each in registry.collect() if isinstance(each, HistogramMetricFamily) or each.samples]
    return [(s.name, s.labels, s.value) for each in families for s in each.samples if not s.name.endswith("_created")]


@given(values, values)
def test_a_scrape_is_that_of_prometheus_client(some: list[float], others: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = HistogramFamily("embedship_x_seconds", "X.", "lane", BOUNDS, ours)
    reference = prometheus_client.Histogram("embedship_x_seconds", "X.", ["lane"], buckets=BOUNDS, registry=theirs)
    for lane, seen in (("a", some), ("b", others)):
        for value in seen:
            mine.labels(lane).observe(value)
            reference.labels(lane).observe(value)
        mine.labels(lane), reference.labels(lane)
    assert samples(ours) == samples(theirs)


def test_without_a_label_it_is_one_series_at_zero() -> None:
    registry = CollectorRegistry()
    HistogramFamily("embedship_x_seconds", "X.", None, (1.0,), registry).labels()
    text = generate_latest(registry).decode()
    assert (
        'embedship_x_seconds_bucket{le="+Inf"} 0.0\nembedship_x_seconds_count 0.0\nembedship_x_seconds_sum 0.0\n'
        in text
    )


def test_a_name_that_is_taken_is_refused() -> None:
    registry = CollectorRegistry()
    HistogramFamily("embedship_x_seconds", "X.", None, (1.0,), registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        HistogramFamily("embedship_x_seconds", "X.", None, (1.0,), registry)
