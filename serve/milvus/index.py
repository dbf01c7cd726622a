"""Vectors -> hits. Milvus finds candidates, their vectors come with them, and they are ranked here.

So scores and order are those of every index here: products summed in float64, of equal scores the lower row first,
whichever of its indexes Milvus has searched and however it rounds.
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

# Rounding may swap rows at the edge of the k best: a few more are fetched, and ranked.
_SPARE = 16

# What Milvus gives one query at most, and bytes of vectors that one answer may carry: Milvus itself ends at 100 MB.
_MOST = 16_384
_ANSWER_BYTES = 8 * 1024 * 1024

# Own writes are seen at once; those of other processes when Milvus has them everywhere, some 0.1 s later.
CONSISTENCY = {"consistency_level": "Session"}

Ask = Callable[..., Any]  # Line.ask


class MilvusIndex:
    """An Index; rows are the numbers of its documents. Each search is one call, or a few for many queries."""

    def __init__(self, quick: Ask, slow: Ask, collection: str, card: CollectionMetadata) -> None:
        """`quick` asks the server for an answer that somebody waits for, `slow` for one that may take its time."""
        self._quick, self._slow = quick, slow
        self._collection = collection
        self._card = card

    @property
    def size(self) -> int:
        return self.count(None)

    @property
    def kind(self) -> IndexKind:
        return self._card.kind

    @property
    def effort(self) -> SearchEffort:
        return self._card.effort

    def count(self, expression: str | None) -> int:
        """Of the entities that meet it."""
        found = self._quick(
            "query", self._collection, filter=expression or "", output_fields=["count(*)"], **CONSISTENCY
        )
        return int(found[0]["count(*)"])

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        """Of rows 0 to n - 1, where these are the numbers: what holds it against the other indexes."""
        knobs = self.effort.overridden_by(effort)
        queries = ranking.checked(queries, k, self._card.dimension)
        expression = self._among(allowed)
        if not len(queries) or expression == _NONE:
            return _nothing(len(queries), k)
        exact = self.kind is IndexKind.FLAT or is_selective(allowed)
        return self._all(self._quick, queries, k, expression) if exact else self._some(queries, k, expression, knobs)

    def near(self, queries: Vectors, k: int, expression: str | None, effort: SearchEffort | None) -> RankedRows:
        """The same among the entities that meet an expression."""
        knobs = self.effort.overridden_by(effort)
        queries = ranking.checked(queries, k, self._card.dimension)
        exact = self.kind is IndexKind.FLAT or (expression is not None and self.count(expression) <= FEW)
        return self._all(self._quick, queries, k, expression) if exact else self._some(queries, k, expression, knobs)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        queries = ranking.checked(queries, k, self._card.dimension)
        expression = self._among(allowed)
        if not len(queries) or expression == _NONE:
            return _nothing(len(queries), k)
        return self._all(self._slow, queries, k, expression)

    def _some(self, queries: Vectors, k: int, expression: str | None, knobs: SearchEffort) -> RankedRows:
        """By the graph."""
        wanted = min(knobs.candidates(k), _MOST)
        parameters = {"ef": max(knobs.ef_search or 0, wanted)}
        found = self._found(self._quick, queries, wanted, expression, self._card.vector, parameters)
        return _stacked([_ranked(query, *each, k) for query, each in zip(queries, found, strict=True)], k)

    def _all(self, ask: Ask, queries: Vectors, k: int, expression: str | None) -> RankedRows:
        """By comparing all vectors. Where more are equal than were fetched, more are fetched."""
        wanted, left = min(k + _SPARE, _MOST), np.arange(len(queries))
        hits: list[RankedRows | None] = [None] * len(queries)
        while len(left):
            found = self._found(ask, queries[left], wanted, expression, self._card.truth, {})
            again = []
            for place, (rows, vectors) in zip(left.tolist(), found, strict=True):
                ranked = _ranked(queries[place], rows, vectors, max(k, len(rows)))
                if k < len(rows) == wanted < _MOST and _close(ranked, k, self._card.dimension):
                    again.append(place)
                hits[place] = RankedRows(ranked.rows[:, :k], ranked.scores[:, :k])
            left, wanted = np.array(again, dtype=np.int64), min(4 * wanted, _MOST)
        return _stacked([each for each in hits if each is not None], k)

    def _found(
        self,
        ask: Ask,
        queries: Vectors,
        wanted: int,
        expression: str | None,
        field: str,
        parameters: dict[str, int],
    ) -> list[tuple[NDArray[np.int64], Vectors]]:
        """For each query rows (m,) and their vectors (m, dim), at most so many as wanted."""
        step = max(1, _ANSWER_BYTES // (wanted * 4 * self._card.dimension))
        truth, answers = self._card.truth, []
        for start in range(0, len(queries), step):
            answers += ask(
                "search",
                self._collection,
                data=list(queries[start : start + step]),
                anns_field=field,
                limit=wanted,
                filter=expression or "",
                output_fields=[truth],
                search_params={"metric_type": "IP", "params": parameters},
                **CONSISTENCY,
            )
        return [_candidates(each, truth, self._card.dimension) for each in answers]

    def _among(self, allowed: Allowed | None) -> str | None:
        """The shorter of two lists: of those that may be found, or of the others."""
        if allowed is None:
            return None
        validate_mask(allowed, self.size)
        chosen = np.flatnonzero(allowed).tolist()
        if len(chosen) == len(allowed):
            return None
        if 2 * len(chosen) <= len(allowed):
            return expressions.rows_in(chosen) if chosen else _NONE
        return f"not ({expressions.rows_in(np.flatnonzero(~allowed).tolist())})"


_NONE = ""  # nothing is allowed, and nobody needs to be asked


def _candidates(hits: Any, field: str, dimension: int) -> tuple[NDArray[np.int64], Vectors]:
    rows = np.fromiter((hit["row"] for hit in hits), dtype=np.int64, count=len(hits))
    vectors = np.array([hit["entity"][field] for hit in hits], dtype=np.float32)
    return rows, vectors.reshape(len(rows), dimension)


def _ranked(query: Vectors, rows: NDArray[np.int64], vectors: Vectors, k: int) -> RankedRows:
    """(1, k) hits of one query (dim,)."""
    scores = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    order = np.lexsort((rows, -scores))[:k]
    hits = _nothing(1, k)
    hits.rows[0, : len(order)], hits.scores[0, : len(order)] = rows[order], scores[order]
    return hits


def _close(ranked: RankedRows, k: int, dimension: int) -> bool:
    """Whether the last that was fetched scores as the k-th does: others that do may not have been."""
    return bool(ranked.scores[0, k - 1] - ranked.scores[0, -1] < margin(dimension))


def _stacked(hits: Sequence[RankedRows], k: int) -> RankedRows:
    if not hits:
        return _nothing(0, k)
    return RankedRows(np.concatenate([each.rows for each in hits]), np.concatenate([each.scores for each in hits]))


def _nothing(queries: int, k: int) -> RankedRows:
    return RankedRows(np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32))
