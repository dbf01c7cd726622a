"""A mutable index at one version: its snapshot without deleted rows, and the fresh vectors. A view never changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedship import ranking
from embedship.codes import Vectors
from embedship.ranking import RankedRows
from embedship.serve import interruption
from embedship.serve.documents.filters import Allowed
from embedship.serve.index import IndexKind, validate_mask
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import nearest
from embedship.serve.live.snapshot import IndexSnapshot

# The snapshot's index still finds deleted rows, which are then dropped. So this many more rows than k are requested,
# plus twice the number of deleted rows that k rows contain on average.
_SPARE = 4

# Outdated fresh rows are kept until there are more of them than this number and than current rows.
_STALE = 1024

# Number of queries that are compared with all fresh rows in one product.
_QUERIES = 256

_NOWHERE = 2**32 - 1  # no row has this number (changes.py)


@dataclass(frozen=True, slots=True)
class FreshRows:
    """Rows that are not in the snapshot. The arrays are parts of longer ones, to which later versions append."""

    numbers: NDArray[np.int64]
    vectors: Vectors
    current: NDArray[np.bool_]  # False for a row that was later replaced or deleted


@dataclass(frozen=True, slots=True)
class LiveView:
    """An Index. Its rows are the row numbers of the database, so `allowed` has one flag per number below `size`."""

    version: int
    size: int  # all row numbers are below this; some are not in use
    documents: int
    firsts: NDArray[np.uint32] | None  # (size,) the first row of each row's document; None: every row is a document
    snapshot: IndexSnapshot
    alive: NDArray[np.bool_]  # (snapshot.size,) False for deleted and replaced rows of the snapshot
    dead: int  # number of deleted and replaced rows of the snapshot
    fresh: FreshRows

    @property
    def kind(self) -> IndexKind:
        return self.snapshot.index.kind

    @property
    def effort(self) -> SearchEffort:
        return self.snapshot.index.effort

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        validate_mask(allowed, self.size)
        if allowed is None and self.dead:
            old = self._search_and_drop_deleted(queries, k, effort)
        else:
            old = self.snapshot.index.search(queries, k, self._allowed_rows(allowed), effort)
        return self._merge_fresh(queries, k, old, allowed)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        validate_mask(allowed, self.size)
        return self._merge_fresh(
            queries, k, self.snapshot.index.exact(queries, k, self._allowed_rows(allowed)), allowed
        )

    def _search_and_drop_deleted(self, queries: Vectors, k: int, effort: SearchEffort | None) -> RankedRows:
        """Request a few more rows and drop deleted ones: a first stage with a mask is slower, or finds fewer rows.

        Queries with too few rows left, which is rare, are searched again among the remaining rows only.
        """
        index = self.snapshot.index
        requested = k + _SPARE + math.ceil(2 * k * self.dead / len(self.alive))
        hits = index.search(queries, requested, None, effort)
        deleted = (hits.rows >= 0) & ~self.alive[hits.rows]
        rows, scores = np.where(deleted, -1, hits.rows), np.where(deleted, np.float32(-np.inf), hits.scores)
        short = (rows >= 0).sum(axis=1) < min(k, len(self.alive) - self.dead)
        if short.any():
            repeated = index.search(queries[short], requested, self.alive, effort)
            rows[short], scores[short] = repeated.rows, repeated.scores
        return RankedRows(rows, scores)

    def _allowed_rows(self, allowed: Allowed | None) -> Allowed | None:
        if allowed is not None:
            return np.logical_and(allowed[self.snapshot.numbers], self.alive)
        return self.alive if self.dead else None

    def _merge_fresh(self, queries: Vectors, k: int, old: RankedRows, allowed: Allowed | None) -> RankedRows:
        rows = np.where(old.rows >= 0, self.snapshot.numbers[old.rows], _NOWHERE)
        packed = ranking.largest(ranking.keys(old.scores, rows), k)
        current = self.fresh.current if allowed is None else self.fresh.current & allowed[self.fresh.numbers]
        chosen = np.flatnonzero(current)
        if len(chosen):
            queries = ranking.validate_queries(queries, k, self.fresh.vectors.shape[1])
            packed = np.concatenate([packed, self._search_fresh(queries, k, chosen)], axis=1)
        hits = ranking.hits(packed, k)
        hits.rows[np.isneginf(hits.scores)] = -1
        return hits

    def _search_fresh(self, queries: Vectors, k: int, chosen: NDArray[np.int64]) -> ranking.Keys:
        """Return (n, at most k) keys of the chosen fresh rows. All are compared, and ranked as in ExactVectors."""
        vectors, numbers = self.fresh.vectors, self.fresh.numbers
        best = np.empty((len(queries), min(k, len(chosen))), dtype=np.int64)
        for start in range(0, len(queries), _QUERIES):
            interruption.check()
            part = queries[start : start + _QUERIES]
            scores = part @ vectors.T
            if len(chosen) < scores.shape[1]:
                scores = scores[:, chosen]
            scored = iter([(chosen, scores)])
            best[start : start + _QUERIES] = nearest(part, k, scored, vectors.__getitem__, numbers)
        return best


class FreshBuffer:
    """The fresh rows of all views. Rows are only appended, so that older views stay valid. For one thread at a time."""

    def __init__(self, dimension: int) -> None:
        self._numbers = np.empty(_STALE, dtype=np.int64)
        self._vectors = np.empty((_STALE, dimension), dtype=np.float32)
        self._positions: dict[int, int] = {}
        self._size = 0
        self.rows = FreshRows(self._numbers[:0], self._vectors[:0], np.empty(0, dtype=np.bool_))

    def apply(self, numbers: NDArray[np.int64], vectors: Vectors, deleted: NDArray[np.int64]) -> FreshRows:
        """Return the fresh rows after documents were put (each at most once) and others were deleted."""
        stale = [
            position
            for each in (*deleted.tolist(), *numbers.tolist())
            if (position := self._positions.pop(each, -1)) >= 0
        ]
        if self._size - len(self._positions) > max(_STALE, len(self._positions)):
            stale = []
            self._repack()
        first = self._size
        self._grow(first + len(numbers))
        self._numbers[first : self._size], self._vectors[first : self._size] = numbers, vectors
        self._positions.update(zip(numbers.tolist(), range(first, self._size), strict=True))
        current = np.ones(self._size, dtype=np.bool_)
        current[:first] = self.rows.current
        current[stale] = False
        self.rows = FreshRows(self._numbers[: self._size], self._vectors[: self._size], current)
        return self.rows

    def _grow(self, size: int) -> None:
        self._size = size
        if size > len(self._numbers):
            capacity = max(size, 2 * len(self._numbers))
            self._numbers, numbers = np.empty(capacity, dtype=np.int64), self._numbers
            self._vectors, vectors = np.empty((capacity, self._vectors.shape[1]), dtype=np.float32), self._vectors
            self._numbers[: len(numbers)], self._vectors[: len(vectors)] = numbers, vectors

    def _repack(self) -> None:
        """Copy the current rows into new arrays. Older views keep the old arrays."""
        current = np.fromiter(self._positions.values(), dtype=np.int64, count=len(self._positions))
        numbers, vectors = self._numbers[current], self._vectors[current]
        self._numbers, self._vectors, self._size = numbers, vectors, len(current)
        self._positions = dict(zip(numbers.tolist(), range(len(current)), strict=True))
        self.rows = FreshRows(numbers, vectors, np.ones(len(current), dtype=np.bool_))
