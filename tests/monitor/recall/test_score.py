from itertools import permutations

import numpy as np
import pytest

from embedship.monitor.recall.score import score


def reference(answered, relevant, k):
    """nDCG@k with gains and discounts as arrays, and recall by counting."""
    gains = np.isin(answered[:k], list(relevant)).astype(float)
    discounts = 1 / np.log2(np.arange(2, 2 + len(gains)))
    ideal = (1 / np.log2(np.arange(2, 2 + min(len(relevant), k)))).sum()
    return int(gains.sum()), min(len(relevant), k), float(gains @ discounts / ideal)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("relevant", [{1}, {1, 2}, {1, 2, 3, 9}, set(range(20))])
def test_every_ranking_of_five_against_the_reference(relevant, k):
    for answered in permutations(range(5)):
        found = score(answered, relevant, k)
        assert found[:2] == reference(answered, relevant, k)[:2]
        assert found.ndcg == pytest.approx(reference(answered, relevant, k)[2])


def test_a_document_that_is_answered_by_several_of_its_chunks_counts_once():
    assert score(["a", "a", "a"], ["a"]) == (1, 1, 1.0)
    assert score(["a", "a", "a"], ["a", "b", "c"])[:2] == (1, 3)
    assert score(["a", "a", "b"], ["b"], k=2) == score(["a", "b"], ["b"], k=2)


def test_a_perfect_ranking_is_one_and_a_foreign_one_is_zero():
    assert score(["a", "b"], ["b", "a"]) == (2, 2, 1.0)
    assert score(["x"], ["a"]) == (0, 1, 0.0)
    assert score([], ["a"]) == (0, 1, 0.0)


def test_a_label_given_twice_counts_once():
    assert score(["a"], ["a", "a"]) == (1, 1, 1.0)
