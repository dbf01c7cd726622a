"""Intervals over queries, held against SciPy's and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from embedship.serve.compare.rankings import measure_agreement, measure_labels, overlap_ratios, paired_difference

ONE_TO_TEN = [str(n) for n in range(10)]


def test_an_overlap_is_a_share_of_what_old_found() -> None:
    old = [ONE_TO_TEN, ["a", "b"], []]
    new = [["x", *ONE_TO_TEN], ["b", "c"], ["d"]]
    np.testing.assert_equal(overlap_ratios(old, new), [0.9, 0.5, np.nan])
    found = measure_agreement(overlap_ratios(old, new), "so")
    assert found is not None
    assert found.queries == 2, "where there was nothing to find nothing was missed"
    assert found.recall.mean == pytest.approx(0.7)
    assert measure_agreement(overlap_ratios([[]], [["a"]]), "so") is None


def test_the_change_is_paired() -> None:
    random = np.random.default_rng(5)
    old = random.uniform(size=200)
    new = old - 0.01 + random.normal(scale=0.02, size=200)
    found = paired_difference(old, new)
    scipys = stats.ttest_rel(new, old).confidence_interval(0.95)
    assert (found.lower, found.upper) == pytest.approx((scipys.low, scipys.high))
    assert found.upper < 0, "two samples of 200 that vary so would not show it"
    assert stats.ttest_ind(new, old).confidence_interval(0.95).high > 0
    assert (paired_difference(old[:1], new[:1]).lower, paired_difference(old[:1], new[:1]).upper) == (-1, 1)


def test_what_docs_say_of_few_queries() -> None:
    """One of 50 that changed, for better or worse, leaves 0.02 open; where none did the interval has no width."""
    for change in (-1, 1):
        old = np.full(50, 0.5)
        new = old + change * (np.arange(50) == 0)
        assert paired_difference(old, new).lower < -0.02
    assert (paired_difference(old, old).lower, paired_difference(old, old).upper) == (0, 0)
    assert [1 - 0.05 ** (1 / n) < most for n, most in ((100, 0.03), (149, 0.02), (148, 0.02))] == [True, True, False]


def test_labels_judge_both() -> None:
    relevant = [{"a"}, set(), {"a", "b"}]
    found = measure_labels([["a"], ["z"], ["a", "b"]], [["z", "a"], ["a"], ["b"]], relevant)
    assert found is not None
    assert found.queries == 2, "one query has no label"
    assert (found.recall.old, found.recall.new) == (1.0, 0.75)
    assert found.recall.change.mean == pytest.approx(-0.25)
    assert found.ndcg.new == pytest.approx((1 / np.log2(3) + 1 / (1 + 1 / np.log2(3))) / 2)
    assert measure_labels([["a"]], [["a"]], [set()]) is None
