"""Vector search in Milvus. Milvus finds candidates and returns their vectors, and this module ranks them.

So scores and order are the same as for an index folder: products are summed in float64, and rows with equal scores are
sorted by row. They do not depend on the index type or the rounding of Milvus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedship import ranking
from embedship.codes import Vectors
from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Allowed
from embedship.serve.index import FEW, IndexKind, is_selective, validate_mask
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import margin
from embedship.serve.milvus import expressions
from embedship.serve.milvus.collection_metadata import CollectionMetadata

# Rounding may swap rows at the end of the k best, so this many more rows are fetched and ranked.
_SPARE = 16

# Maximum hits per query in Milvus, and bytes of vectors requested per call; Milvus' own limit is 100 MB.
_MAX_HITS = 16_384
_ANSWER_BYTES = 8 * 1024 * 1024

# Writes of this process are visible at once; those of other processes after about 0.1 s.
CONSISTENCY = {"consistency_level": "Session"}

Call = Callable[..., Any]  # MilvusConnection.call


class MilvusIndex:
    """Vector index of a collection. Rows are the primary keys of its documents. A search is one call or a few."""

    def __init__(self, quick: Call, slow: Call, collection: str, metadata: CollectionMetadata) -> None:
        """`quick` is for calls that a user waits for, `slow` for those that may take long."""
        self._quick, self._slow = quick, slow
        self._collection = collection
        self._metadata = metadata

    @property
    def size(self) -> int:
        return self.count(None)

    @property
    def kind(self) -> IndexKind:
        return self._metadata.kind

    @property
    def effort(self) -> SearchEffort:
        return self._metadata.effort

    def count(self, expression: str | None) -> int:
        """Return the number of entities that meet the expression, or of all if it is None."""
        rows = self._quick(
            "query", self._collection, filter=expression or "", output_fields=["count(*)"], **CONSISTENCY
        )
        return int(rows[0]["count(*)"])

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        """Search a collection whose primary keys are 0 to n - 1. Used by the tests that compare all indexes."""
        effort = self.effort.overridden_by(effort)
        queries = ranking.validate_queries(queries, k, self._metadata.dimension)
        expression = self._expression(allowed)
        if not len(queries) or expression == _NONE:
            return _no_hits(len(queries), k)
        if self.kind is IndexKind.FLAT or is_selective(allowed):
            return self._search_exact(self._quick, queries, k, expression)
        return self._search_graph(queries, k, expression, effort)

    def near(self, queries: Vectors, k: int, expression: str | None, effort: SearchEffort | None) -> RankedRows:
        """Return the k best entities that meet the expression, for each query vector (n, dim)."""
        effort = self.effort.overridden_by(effort)
        queries = ranking.validate_queries(queries, k, self._metadata.dimension)
        if self.kind is IndexKind.FLAT or (expression is not None and self.count(expression) <= FEW):
            return self._search_exact(self._quick, queries, k, expression)
        return self._search_graph(queries, k, expression, effort)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        queries = ranking.validate_queries(queries, k, self._metadata.dimension)
        expression = self._expression(allowed)
        if not len(queries) or expression == _NONE:
            return _no_hits(len(queries), k)
        return self._search_exact(self._slow, queries, k, expression)

    def _search_graph(self, queries: Vectors, k: int, expression: str | None, effort: SearchEffort) -> RankedRows:
        """Search the HNSW graph."""
        limit = min(effort.candidates(k), _MAX_HITS)
        parameters = {"ef": max(effort.ef_search or 0, limit)}
        candidates = self._candidates(self._quick, queries, limit, expression, self._metadata.vector, parameters)
        return _stack([_rank(query, *each, k) for query, each in zip(queries, candidates, strict=True)], k)

    def _search_exact(self, call: Call, queries: Vectors, k: int, expression: str | None) -> RankedRows:
        """Compare all vectors. If there may be vectors with the score of the k-th that were not fetched, fetch more."""
        limit, remaining = min(k + _SPARE, _MAX_HITS), np.arange(len(queries))
        hits: list[RankedRows | None] = [None] * len(queries)
        while len(remaining):
            candidates = self._candidates(call, queries[remaining], limit, expression, self._metadata.truth, {})
            retried = []
            for i, (rows, vectors) in zip(remaining.tolist(), candidates, strict=True):
                ranked = _rank(queries[i], rows, vectors, max(k, len(rows)))
                if k < len(rows) == limit < _MAX_HITS and _may_miss_ties(ranked, k, self._metadata.dimension):
                    retried.append(i)
                hits[i] = RankedRows(ranked.rows[:, :k], ranked.scores[:, :k])
            remaining, limit = np.array(retried, dtype=np.int64), min(4 * limit, _MAX_HITS)
        return _stack([each for each in hits if each is not None], k)

    def _candidates(
        self,
        call: Call,
        queries: Vectors,
        limit: int,
        expression: str | None,
        field: str,
        parameters: dict[str, int],
    ) -> list[tuple[NDArray[np.int64], Vectors]]:
        """Return, per query, at most `limit` rows (m,) and their vectors (m, dim)."""
        step = max(1, _ANSWER_BYTES // (limit * 4 * self._metadata.dimension))
        truth, answers = self._metadata.truth, []
        for start in range(0, len(queries), step):
            answers += call(
                "search",
                self._collection,
                data=list(queries[start : start + step]),
                anns_field=field,
                limit=limit,
                filter=expression or "",
                output_fields=[truth],
                search_params={"metric_type": "IP", "params": parameters},
                **CONSISTENCY,
            )
        return [_rows_and_vectors(each, truth, self._metadata.dimension) for each in answers]

    def _expression(self, allowed: Allowed | None) -> str | None:
        """Return the expression for a mask. It lists the smaller set: the allowed rows, or all others."""
        if allowed is None:
            return None
        validate_mask(allowed, self.size)
        chosen = np.flatnonzero(allowed).tolist()
        if len(chosen) == len(allowed):
            return None
        if 2 * len(chosen) <= len(allowed):
            return expressions.rows_in(chosen) if chosen else _NONE
        return f"not ({expressions.rows_in(np.flatnonzero(~allowed).tolist())})"


_NONE = ""  # no row is allowed, so that no call is needed


def _rows_and_vectors(hits: Any, field: str, dimension: int) -> tuple[NDArray[np.int64], Vectors]:
    rows = np.fromiter((hit["row"] for hit in hits), dtype=np.int64, count=len(hits))
    vectors = np.array([hit["entity"][field] for hit in hits], dtype=np.float32)
    return rows, vectors.reshape(len(rows), dimension)


def _rank(query: Vectors, rows: NDArray[np.int64], vectors: Vectors, k: int) -> RankedRows:
    """Return the (1, k) best rows of one query (dim,), from candidate vectors (m, dim)."""
    scores = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    order = np.lexsort((rows, -scores))[:k]
    hits = _no_hits(1, k)
    hits.rows[0, : len(order)], hits.scores[0, : len(order)] = rows[order], scores[order]
    return hits


def _may_miss_ties(ranked: RankedRows, k: int, dimension: int) -> bool:
    """Return whether the last fetched row scores like the k-th: then further rows with this score may be missing."""
    return bool(ranked.scores[0, k - 1] - ranked.scores[0, -1] < margin(dimension))


def _stack(hits: Sequence[RankedRows], k: int) -> RankedRows:
    if not hits:
        return _no_hits(0, k)
    return RankedRows(np.concatenate([each.rows for each in hits]), np.concatenate([each.scores for each in hits]))


def _no_hits(queries: int, k: int) -> RankedRows:
    return RankedRows(np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32))
