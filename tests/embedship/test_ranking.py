from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from embedship import ranking

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    scores=arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=finite), k=st.integers(1, 50)
)
def test_ranking_is_a_sort_by_score_then_row(scores: NDArray[np.float32], k: int) -> None:
    rows = np.arange(scores.shape[1])
    hits = ranking.hits(ranking.keys(scores, rows), k)
    for known, row, score in zip(scores, hits.rows, hits.scores, strict=True):
        expected = np.lexsort((rows, -known))[:k]
        np.testing.assert_array_equal(row[: len(expected)], expected)
        np.testing.assert_array_equal(score[: len(expected)], known[expected])
        assert (row[len(expected) :] == -1).all()


def test_rows_up_to_the_largest_survive() -> None:
    rows = np.array([0, 2**31, 2**32 - 1])
    hits = ranking.hits(ranking.keys(np.array([[0.5, 0.5, 0.5]], dtype=np.float32), rows), 3)
    np.testing.assert_array_equal(hits.rows, [rows])
