from __future__ import annotations

import math

import numpy as np
import pytest

from embedship.export.report.histogram import BINS, MOST_NINES, CosineHistogram, cosine_axis, nines


@pytest.mark.parametrize(
    ("cosine", "count"),
    [
        (0.9, 1),
        (0.99, 2),
        (0.5, math.log10(2)),
        (1, MOST_NINES),
        (1 + 1e-9, MOST_NINES),
        (0, 0),
        (-1, 0),
        (math.nan, 0),
    ],
)
def test_nines(cosine: float, count: float) -> None:
    assert nines(cosine) == pytest.approx(count)


def test_every_text_is_counted_once_and_where_it_belongs() -> None:
    drawn = 1 - 10 ** -np.random.default_rng(0).uniform(-0.2, 10, 1000)
    found = CosineHistogram.from_cosines(drawn)
    inner = np.histogram(np.clip(drawn, 0, found.edges[-1] - 1e-12), found.edges)[0]
    assert found.texts == 1000
    assert found.counts == tuple(inner)
    assert len(found.edges) == BINS + 1


def test_a_cosine_on_an_edge_belongs_to_the_bin_that_it_begins() -> None:
    counts = CosineHistogram.from_cosines([0.9, 0.99, 0.999]).counts
    assert [place for place, count in enumerate(counts) if count] == [5, 10, 15]


def test_nan_counts_as_the_worst() -> None:
    assert CosineHistogram.from_cosines([math.nan, 1.0]).counts[0] == 1


@pytest.mark.parametrize(
    ("worst", "first"), [(0.9861, "0.9"), (0.99995, "0.9999"), (1.0, "0.999999"), (0.3, "0"), (-0.5, "0")]
)
def test_a_cosine_axis_begins_at_the_decade_of_the_worst(worst: float, first: str) -> None:
    found = cosine_axis("cosine", worst)
    assert found.ticks[0].text == first
    assert found.ticks[-1].text == "1"
    assert found.place(worst, 300, 0) <= 300
    assert found.place(1.0, 300, 0) == 0


def test_decades_are_evenly_apart() -> None:
    found = cosine_axis("cosine", 0.95)
    places = [found.place(tick.value, 0, 700) for tick in found.ticks]
    assert places == pytest.approx([0, 100, 200, 300, 400, 500, 600, 700])
