"""One suite for every kind of index, against brute force in numpy."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from embedship.codes import Vectors
from embedship.errors import UsageError
from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Allowed
from embedship.serve.index import IndexKind, is_selective
from embedship.serve.index.effort import LIMITS, SearchEffort
from embedship.serve.index.faiss_library import faiss
from embedship.serve.index.recipe import RerankStore

from .conftest import Make, Texts

INT8 = 1e-2
SECONDS = 60
# Measured on these texts, 1,500 documents: RECALLS
RECALL_FLOOR = 0.985
# One bit for each of 64 dimensions says less: of 9,000 clustered vectors, with a mask or without, CLUSTERED
CLUSTERED_FLOOR = 0.95


def tolerance(kind: IndexKind) -> float:
    return 1e-4 if kind is IndexKind.FLAT else INT8


def brute_force(documents: Vectors, queries: Vectors, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    scores = queries @ documents.astype(np.float16).astype(np.float32).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


def recall(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)]))


def assert_same(hits: RankedRows, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """The same rows, but where two scores are closer than the last bits of float32."""
    np.testing.assert_allclose(hits.scores, scores, atol=1e-5)
    close = np.abs(np.diff(scores, axis=1, append=-1)) < 1e-5
    clear = ~(close | np.roll(close, 1, axis=1))
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(hits.rows[clear], rows[clear])


def test_finds_in_real_text_what_brute_force_finds(make: Make, kind: IndexKind, texts: Texts) -> None:
    index = make(texts.documents)
    hits = index.search(texts.queries, 10)
    rows, scores = brute_force(texts.documents, texts.queries, 10)
    if kind is IndexKind.FLAT:
        assert_same(hits, rows, scores)
    else:
        assert recall(hits.rows, rows) >= RECALL_FLOOR


@pytest.mark.parametrize("kind", [IndexKind.BINARY], indirect=True)
def test_more_candidates_find_more(make: Make, texts: Texts) -> None:
    rows, _ = brute_force(texts.documents, texts.queries, 10)
    found = [
        recall(make(texts.documents, effort=SearchEffort(oversample=times)).search(texts.queries, 10).rows, rows)
        for times in (1, 3, 20)
    ]
    assert found[0] + 0.05 < found[1] < found[2]
    index = make(texts.documents, effort=SearchEffort(oversample=20))
    assert recall(index.search(texts.queries, 10, effort=SearchEffort(oversample=1)).rows, rows) == found[0]


@pytest.mark.parametrize("kind", [IndexKind.PQ, IndexKind.HNSW_SQ8], indirect=True)
def test_the_float16_store_ranks_as_exact_search(make: Make, texts: Texts) -> None:
    """What the first stage finds has its exact score; int8 is off by its rounding."""
    index = make(texts.documents, store=RerankStore.FLOAT16)
    hits, exact = index.search(texts.queries, 10), index.exact(texts.queries, 10)
    same = hits.rows == exact.rows
    assert same.mean() > 0.97
    np.testing.assert_allclose(hits.scores[same], exact.scores[same], atol=1e-6)


def test_flat_is_brute_force_to_the_last_row(make: Make, kind: IndexKind, clustered: Vectors) -> None:
    """Ids and order, however many queries are asked at once: products in float64, ties by row."""
    rows = np.argsort(-_float64_scores(clustered, clustered[::60]), axis=1, kind="stable")[:, :10]
    index = make(clustered)
    np.testing.assert_array_equal(index.exact(clustered[::60], 10).rows, rows)
    if kind is IndexKind.FLAT:
        for size in (1, 3, 150):
            found = [index.search(some, 10).rows for some in np.split(clustered[::60], 150 // size)]
            np.testing.assert_array_equal(np.concatenate(found), rows)


def _float64_scores(documents: Vectors, queries: Vectors) -> NDArray[np.float32]:
    return (queries.astype(np.float64) @ documents.astype(np.float16).astype(np.float64).T).astype(np.float32)


@pytest.mark.parametrize("kind", [IndexKind.FLAT], indirect=True)
def test_flat_with_more_duplicates_than_it_fetches(make: Make, texts: Texts) -> None:
    index = make(np.concatenate([texts.documents[:3]] * 50))
    np.testing.assert_array_equal(index.search(texts.documents[1:2], 5).rows[0], [1, 4, 7, 10, 13])


@pytest.mark.parametrize(
    "kind", [IndexKind.IVF_PQ, IndexKind.IVF_RABITQ, IndexKind.HNSW_SQ8, IndexKind.HNSW_RABITQ], indirect=True
)
def test_more_effort_finds_more(make: Make, kind: IndexKind, clustered: Vectors) -> None:
    """The knob of a request turns; clustered vectors without a neighbourhood of their own are hard to find."""
    index, queries = make(clustered, store=RerankStore.FLOAT16), clustered[::45] * -1
    knob = "nprobe" if kind in (IndexKind.IVF_PQ, IndexKind.IVF_RABITQ) else "ef_search"
    exact = index.exact(queries, 10).rows

    def found(value: int) -> float:
        return recall(index.search(queries, 10, effort=SearchEffort(oversample=2, **{knob: value})).rows, exact)

    # Asked again, for Milvus makes its graph in the background, and looks at every vector until it is there.
    end = time.monotonic() + SECONDS
    while not (turns := found(1) + 0.02 < found(256)) and time.monotonic() < end:
        pass
    assert turns


def test_an_effort_outside_the_limits() -> None:
    with pytest.raises(UsageError, match=r"oversample=0 lies outside 1\.\.200"):
        SearchEffort(oversample=0)


def test_an_effort_that_the_index_does_not_have(make: Make, kind: IndexKind, texts: Texts) -> None:
    index = make(texts.documents[:50])
    for name in LIMITS:
        asked = SearchEffort(**{name: 5})
        if getattr(index.effort, name) is None:
            with pytest.raises(UsageError, match=f"effort {name}: this index has no such knob"):
                index.search(texts.queries, 1, effort=asked)
        else:
            assert index.search(texts.queries, 1, effort=asked).rows.shape == (len(texts.queries), 1)


def chosen(share: float, size: int) -> Allowed:
    return np.random.default_rng(3).random(size) < share


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 1])
def test_under_a_mask_what_brute_force_finds_among_the_allowed(
    make: Make, kind: IndexKind, clustered: Vectors, share: float
) -> None:
    """Half of 9,000 rows are more than FEW, a tenth of them fewer."""
    index, queries, allowed = make(clustered), clustered[::90], chosen(share, len(clustered))
    rows = np.flatnonzero(allowed)
    best, scores = brute_force(clustered[rows], queries, 10)
    exact, hits = index.exact(queries, 10, allowed), index.search(queries, 10, allowed)
    width = min(10, len(rows))
    if width:
        assert_same(RankedRows(exact.rows[:, :width], exact.scores[:, :width]), rows[best], scores)
        assert recall(hits.rows[:, :width], rows[best]) >= (
            1 if is_selective(allowed) or kind is IndexKind.FLAT else CLUSTERED_FLOOR
        )
    for found in (exact, hits):
        assert set(found.rows[found.rows >= 0]) <= set(rows)
        assert (found.rows[:, width:] == -1).all()
        assert (np.sort(found.rows[:, :width], axis=1)[:, :1] >= 0).all()


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_mask_costs_no_recall(make: Make, clustered: Vectors, share: float) -> None:
    """Of 9,000 rows, so that the first stage is asked and not brute force; a mask of one topic, too."""
    index, queries = make(clustered), clustered[::30]
    plain = recall(index.search(queries, 10).rows, index.exact(queries, 10).rows)
    near = clustered @ clustered[0]
    for allowed in (chosen(share, len(clustered)), near >= np.quantile(near, 1 - share)):
        assert not is_selective(allowed)
        masked = recall(index.search(queries, 10, allowed).rows, index.exact(queries, 10, allowed).rows)
        assert masked >= plain - 0.01


def test_numbers_of_rows_are_no_mask(make: Make, texts: Texts) -> None:
    index = make(texts.documents[:50])
    for search in (index.search, index.exact):
        with pytest.raises(ValueError, match=r"allowed must be bool of shape \(50,\), not int64 \(3,\)"):
            search(texts.queries, 1, np.arange(3))


def test_exact_is_brute_force(make: Make, texts: Texts) -> None:
    hits = make(texts.documents).exact(texts.queries, 10)
    assert_same(hits, *brute_force(texts.documents, texts.queries, 10))


def test_exact_over_several_blocks_of_rows_and_queries(make: Make, clustered: Vectors) -> None:
    queries = clustered[::30]
    assert_same(make(clustered).exact(queries, 10), *brute_force(clustered, queries, 10))


def test_scores_are_cosines(make: Make, kind: IndexKind, texts: Texts) -> None:
    hits = make(texts.documents).search(texts.queries, 10)
    cosines = np.take_along_axis(texts.queries @ texts.documents.T, hits.rows, axis=1)
    np.testing.assert_allclose(hits.scores, cosines, atol=tolerance(kind))


def test_a_document_is_its_own_first_hit_at_cosine_one(make: Make, kind: IndexKind, texts: Texts) -> None:
    hits = make(texts.documents).search(texts.documents[::5], 3)
    np.testing.assert_array_equal(hits.rows[:, 0], np.arange(0, len(texts.documents), 5))
    np.testing.assert_allclose(hits.scores[:, 0], 1, atol=tolerance(kind))


def test_best_first_and_no_row_twice(make: Make, clustered: Vectors) -> None:
    hits = make(clustered).search(clustered[:50], 20)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert all(len(set(rows)) == 20 for rows in hits.rows)


def test_the_answer_does_not_depend_on_the_batch(make: Make, clustered: Vectors) -> None:
    index, queries = make(clustered), clustered[:700:7]
    together = index.search(queries, 5)
    alone = [index.search(queries[i : i + 1], 5) for i in range(len(queries))]
    np.testing.assert_array_equal(together.rows, np.concatenate([hits.rows for hits in alone]))
    np.testing.assert_allclose(together.scores, np.concatenate([hits.scores for hits in alone]), atol=1e-5)


def test_a_batch_too_large_to_gather_at_once(make: Make, clustered: Vectors) -> None:
    index = make(clustered)
    hits = index.search(clustered[:2000], 1)
    np.testing.assert_array_equal(hits.rows[:, 0], np.arange(2000))


def test_of_duplicates_the_lower_rows_come_first(make: Make, texts: Texts) -> None:
    index = make(np.concatenate([texts.documents[:200]] * 4))
    for search in (index.search, index.exact):
        rows = search(texts.documents[:30], 6).rows
        np.testing.assert_array_equal(rows[:, :4], np.arange(30)[:, None] + [0, 200, 400, 600])
        # Two of four equal ones at the edge of the six best.
        assert (rows[:, 4] < 200).all()
        np.testing.assert_array_equal(rows[:, 5], rows[:, 4] + 200)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_fewer_documents_than_asked_for(make: Make, texts: Texts, size: int) -> None:
    index = make(texts.documents[:size])
    assert index.size == size
    for hits in (index.search(texts.queries[:4], 12), index.exact(texts.queries[:4], 12)):
        assert hits.rows.shape == hits.scores.shape == (4, 12)
        assert (np.sort(hits.rows[:, :size], axis=1) == np.arange(size)).all()
        assert (hits.rows[:, size:] == -1).all()
        assert (hits.scores[:, size:] == -np.inf).all()


@pytest.mark.parametrize("k", [1, 10])
def test_no_queries_no_hits(make: Make, texts: Texts, k: int) -> None:
    index = make(texts.documents[:50])
    for hits in (index.search(texts.queries[:0], k), index.exact(texts.queries[:0], k)):
        assert hits.rows.shape == hits.scores.shape == (0, k)
        assert (hits.rows.dtype, hits.scores.dtype) == (np.int64, np.float32)


def test_what_cannot_be_searched_for(make: Make, texts: Texts) -> None:
    index, query = make(texts.documents[:50]), texts.queries[:1]
    for search in (index.search, index.exact):
        with pytest.raises(ValueError, match=r"shape \(n, 384\), not \(1, 383\)"):
            search(query[:, 1:], 1)
        with pytest.raises(ValueError, match=r"not \(384,\)"):
            search(query[0], 1)
        with pytest.raises(ValueError, match="k must be at least 1, not 0"):
            search(query, 0)
        with pytest.raises(ValueError, match="NaN"):
            search(query * np.float32("nan"), 1)


def test_a_search_stays_on_the_thread_that_asked(make: Make, texts: Texts) -> None:
    """OpenMP would take every core: its setting is per thread, so each thread must be told."""
    index = make(texts.documents)

    def threads_after_a_search() -> int:
        index.search(texts.queries, 10)
        return int(faiss.omp_get_max_threads())

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(threads_after_a_search).result() == 1


def test_searches_from_many_threads_are_the_serial_ones(make: Make, texts: Texts) -> None:
    index = make(texts.documents)
    queries = [texts.queries[i : i + 3] for i in range(0, 90, 3)]
    serial = [index.search(query, 10).rows for query in queries]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            rows = threads.map(lambda query: index.search(query, 10).rows, queries)
            np.testing.assert_array_equal(list(rows), serial)
