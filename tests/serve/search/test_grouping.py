"""k hits are k documents, held against grouping everything by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from embedship import ranking
from embedship.codes import Vectors, normalise
from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Allowed
from embedship.serve.search.grouping import ROWS, SPREAD, ChunkGrouping


class Exact:
    """A search by brute force that counts how often it was asked."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.asked = 0

    def __call__(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        self.asked += 1
        rows = np.arange(len(self.vectors)) if allowed is None else np.flatnonzero(allowed)
        return ranking.hits(ranking.keys(queries @ self.vectors[rows].T, rows), k)


def firsts(lengths: Sequence[int]) -> NDArray[np.uint32]:
    starts = np.cumsum([0, *lengths[:-1]])
    return np.repeat(starts, lengths).astype(np.uint32)


def by_hand(scores: Vectors, first: NDArray[np.uint32], k: int, allowed: Allowed | None) -> list[list[int]]:
    answers = []
    for row in scores:
        best: dict[int, int] = {}
        for place in np.argsort(-row, kind="stable").tolist():
            if allowed is None or allowed[place]:
                best.setdefault(int(first[place]), place)
        answers.append(list(best.values())[:k])
    return answers


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return normalise(np.random.default_rng(3).normal(size=(600, 16)).astype(np.float32))


@pytest.mark.parametrize("lengths", [[1] * 600, [6] * 100, [500, *[1] * 100], [1] * 50 + [275, 275], [600]])
@pytest.mark.parametrize("filtered", [False, True])
def test_the_best_chunk_of_k_documents(vectors: Vectors, lengths: list[int], filtered: bool) -> None:
    first = firsts(lengths)
    queries = normalise(vectors[::50] + 0.3)
    allowed = np.arange(600) % 3 > 0 if filtered else None
    found, best = ChunkGrouping(first).search_documents(Exact(vectors), queries, 10, allowed)
    expected = by_hand(queries @ vectors.T, first, 10, allowed)
    assert [[row for row in rows if row >= 0] for rows in best.rows.tolist()] == expected
    assert found.rows[:, 0].tolist() == [rows[0] for rows in expected]
    np.testing.assert_array_equal(np.isneginf(best.scores), best.rows < 0)
    assert (np.diff(np.where(best.rows < 0, -9, best.scores), axis=1) <= 0).all()


def test_one_document_that_owns_all_that_is_near(vectors: Vectors) -> None:
    """Five hundred chunks nearer than anything else: it is one hit, and two searches find the other nine."""
    query = vectors[:1]
    near = normalise(query + 0.01 * vectors[:500])
    search = Exact(np.concatenate([near, vectors[500:]]))
    _, best = ChunkGrouping(firsts([500, *[1] * 100])).search_documents(search, query, 10, None)
    assert best.rows[0, 0] < 500
    assert (best.rows[0, 1:] >= 500).all()
    assert search.asked == 2


def test_nothing_is_asked_twice_where_nothing_is_left(vectors: Vectors) -> None:
    search = Exact(vectors)
    _, best = ChunkGrouping(firsts([300, 300])).search_documents(search, vectors[:1], 300, None)
    assert (best.rows[0] >= 0).sum() == 2
    assert search.asked == 1, "all 600 rows were found at once"
    _, best = ChunkGrouping(firsts([300, 300])).search_documents(search, vectors[:1], 10, None)
    assert (best.rows[0] >= 0).sum() == 2


def test_without_chunks_nothing_is_done(vectors: Vectors) -> None:
    search = Exact(vectors)
    found, best = ROWS.search_documents(search, vectors[:4], 10, None)
    assert found is best
    assert (search.asked, found.rows.shape) == (1, (4, 10))
    assert ROWS.keys(found.rows) is found.rows


def test_words_are_looked_up_further_until_there_are_enough_documents() -> None:
    first = firsts([200, 1, 1, 1])
    limits: list[int] = []

    def worded(limit: int) -> RankedRows:
        limits.append(limit)
        rows = np.full((1, limit), -1, dtype=np.int64)
        rows[0, : min(203, limit)] = np.arange(min(203, limit))
        return RankedRows(rows, np.where(rows < 0, -np.inf, -rows).astype(np.float32))

    assert ChunkGrouping(first).keyword_search_documents(worded, 3).rows.tolist() == [[0, 200, 201]]
    assert limits == [3 * SPREAD, 24 * SPREAD, 192 * SPREAD]
    limits.clear()
    assert ChunkGrouping(first).keyword_search_documents(worded, 9).rows.tolist() == [
        [0, 200, 201, 202, -1, -1, -1, -1, -1]
    ]


def test_lists_that_hold_other_chunks_of_one_document_are_fused_by_document() -> None:
    grouping = ChunkGrouping(firsts([3, 2, 1]))
    dense = RankedRows(np.array([[1, 5, -1]]), np.array([[0.9, 0.5, -np.inf]], dtype=np.float32))
    keyword = RankedRows(np.array([[4, 2, -1]]), np.array([[9.0, 8.0, -np.inf]], dtype=np.float32))
    fused = grouping.fuse([dense, keyword], 4)
    assert fused.rows.tolist() == [[1, 4, 5, -1]], "document 0 by its dense chunk, document 3 by its only one"
    assert fused.scores[0, 0] == pytest.approx(1 / 61 + 1 / 62)
    assert ROWS.fuse([dense, keyword], 4).rows.tolist() == [[1, 4, 2, 5]]
