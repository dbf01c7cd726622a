"""A live index at one version: its snapshot, without what is gone, and the vectors put since. It never changes."""

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

# What is gone is found all the same, and dropped: so many more are asked for, and twice their share.
_SPARE = 4

# Fresh rows that count no more are kept until they are this many, and more than half.
_STALE = 1024

# As many queries as are compared with all fresh rows at once.
_QUERIES = 256

_NOWHERE = 2**32 - 1  # no row has this number (changes.py)


@dataclass(frozen=True, slots=True)
class FreshRows:
    """What the snapshot lacks: the first `size` rows of arrays that go on growing behind them."""

    numbers: NDArray[np.int64]
    vectors: Vectors
    current: NDArray[np.bool_]  # False for a row that was put again or deleted later


@dataclass(frozen=True, slots=True)
class LiveView:
    """An Index, whose rows are those of the database: flags of `allowed` are counted from 0 to `size`."""

    version: int
    size: int  # every row lies below; those that are there are fewer
    documents: int
    firsts: NDArray[np.uint32] | None  # (size,) for each row the first of its document; None: every row is one
    snapshot: IndexSnapshot
    alive: NDArray[np.bool_]  # of the snapshot's rows
    dead: int
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
            old = self._most(queries, k, effort)
        else:
            old = self.snapshot.index.search(queries, k, self._allowed(allowed), effort)
        return self._merged(queries, k, old, allowed)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        validate_mask(allowed, self.size)
        return self._merged(queries, k, self.snapshot.index.exact(queries, k, self._allowed(allowed)), allowed)

    def _most(self, queries: Vectors, k: int, effort: SearchEffort | None) -> RankedRows:
        """Ask for a few more and drop what is gone: a first stage that must skip rows is slower, or finds less.

        Queries of which too few are left, which is rare, are searched among the living alone.
        """
        index = self.snapshot.index
        asked = k + _SPARE + math.ceil(2 * k * self.dead / len(self.alive))
        found = index.search(queries, asked, None, effort)
        gone = (found.rows >= 0) & ~self.alive[found.rows]
        rows, scores = np.where(gone, -1, found.rows), np.where(gone, np.float32(-np.inf), found.scores)
        short = (rows >= 0).sum(axis=1) < min(k, len(self.alive) - self.dead)
        if short.any():
            again = index.search(queries[short], asked, self.alive, effort)
            rows[short], scores[short] = again.rows, again.scores
        return RankedRows(rows, scores)

    def _allowed(self, allowed: Allowed | None) -> Allowed | None:
        if allowed is not None:
            return np.logical_and(allowed[self.snapshot.numbers], self.alive)
        return self.alive if self.dead else None

    def _merged(self, queries: Vectors, k: int, old: RankedRows, allowed: Allowed | None) -> RankedRows:
        rows = np.where(old.rows >= 0, self.snapshot.numbers[old.rows], _NOWHERE)
        packed = ranking.largest(ranking.keys(old.scores, rows), k)
        current = self.fresh.current if allowed is None else self.fresh.current & allowed[self.fresh.numbers]
        chosen = np.flatnonzero(current)
        if len(chosen):
            queries = ranking.checked(queries, k, self.fresh.vectors.shape[1])
            packed = np.concatenate([packed, self._fresh(queries, k, chosen)], axis=1)
        found = ranking.hits(packed, k)
        found.rows[np.isneginf(found.scores)] = -1
        return found

    def _fresh(self, queries: Vectors, k: int, chosen: NDArray[np.int64]) -> ranking.Keys:
        """(n, at most k) keys among the chosen fresh rows, each compared, and ranked in the order of Truth."""
        vectors, numbers = self.fresh.vectors, self.fresh.numbers
        best = np.empty((len(queries), min(k, len(chosen))), dtype=np.int64)
        for start in range(0, len(queries), _QUERIES):
            interruption.check()
            some = queries[start : start + _QUERIES]
            scores = some @ vectors.T
            if len(chosen) < scores.shape[1]:
                scores = scores[:, chosen]
            scored = iter([(chosen, scores)])
            best[start : start + _QUERIES] = nearest(some, k, scored, vectors.__getitem__, numbers)
        return best


class FreshBuffer:
    """The fresh rows of all views: rows are only ever added, behind those that a view has. For one thread at once."""

    def __init__(self, dimension: int) -> None:
        self._numbers = np.empty(_STALE, dtype=np.int64)
        self._vectors = np.empty((_STALE, dimension), dtype=np.float32)
        self._places: dict[int, int] = {}
        self._size = 0
        self.rows = FreshRows(self._numbers[:0], self._vectors[:0], np.empty(0, dtype=np.bool_))

    def change(self, numbers: NDArray[np.int64], vectors: Vectors, gone: NDArray[np.int64]) -> FreshRows:
        """The rows after documents were put, each once, and others deleted."""
        stale = [place for each in (*gone.tolist(), *numbers.tolist()) if (place := self._places.pop(each, -1)) >= 0]
        if self._size - len(self._places) > max(_STALE, len(self._places)):
            stale = []
            self._repack()
        first = self._size
        self._grow(first + len(numbers))
        self._numbers[first : self._size], self._vectors[first : self._size] = numbers, vectors
        self._places.update(zip(numbers.tolist(), range(first, self._size), strict=True))
        current = np.ones(self._size, dtype=np.bool_)
        current[:first] = self.rows.current
        current[stale] = False
        self.rows = FreshRows(self._numbers[: self._size], self._vectors[: self._size], current)
        return self.rows

    def _grow(self, size: int) -> None:
        self._size = size
        if size > len(self._numbers):
            room = max(size, 2 * len(self._numbers))
            self._numbers, numbers = np.empty(room, dtype=np.int64), self._numbers
            self._vectors, vectors = np.empty((room, self._vectors.shape[1]), dtype=np.float32), self._vectors
            self._numbers[: len(numbers)], self._vectors[: len(vectors)] = numbers, vectors

    def _repack(self) -> None:
        """New arrays without the stale rows; the old ones stay as they are, with the views that have them."""
        kept = np.fromiter(self._places.values(), dtype=np.int64, count=len(self._places))
        numbers, vectors = self._numbers[kept], self._vectors[kept]
        self._numbers, self._vectors, self._size = numbers, vectors, len(kept)
        self._places = dict(zip(numbers.tolist(), range(len(kept)), strict=True))
        self.rows = FreshRows(numbers, vectors, np.ones(len(kept), dtype=np.bool_))
