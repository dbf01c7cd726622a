"""Rows -> documents: where documents were cut, a search shows the best chunk of each, and k hits are k documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from embedship import ranking
from embedship.codes import Vectors
from embedship.ranking import RankedRows
from embedship.serve import interruption
from embedship.serve.documents.filters import Allowed
from embedship.serve.search import fusion

# Rows asked for at first, for each document that is wanted: neighbouring chunks of one document often lie together.
SPREAD = 3

# How much further words are looked up where the first rows were of too few documents.
_FURTHER = 8

Near = Callable[[Vectors, int, Allowed | None], RankedRows]
Worded = Callable[[int], RankedRows]


class ChunkGrouping:
    """Pure. `firsts`, (size,): for each row the first row of its document, which stands for it; None: rows are hits."""

    def __init__(self, firsts: NDArray[np.uint32] | None) -> None:
        self._firsts = firsts

    def keys(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """What a hit is counted by: the first row of its document. -1 stays."""
        if self._firsts is None:
            return rows
        return np.where(rows < 0, -1, self._firsts[rows].astype(np.int64))

    def members(self, key: int) -> NDArray[np.int64]:
        """All rows of the document with this first row."""
        return np.array([key]) if self._firsts is None else np.flatnonzero(self._firsts == key)

    def best(self, hits: RankedRows, k: int) -> RankedRows:
        """(n, k) hits: of each document the row that comes first, in the order of the hits; -1 for none."""
        if self._firsts is None:
            return RankedRows(hits.rows[:, :k], hits.scores[:, :k])
        best = _nothing(len(hits.rows), k)
        for query, keys in enumerate(self.keys(hits.rows)):
            interruption.check()
            _, places = np.unique(keys, return_index=True)
            places = np.sort(places[hits.rows[query, places] >= 0])[:k]
            best.rows[query, : len(places)] = hits.rows[query, places]
            best.scores[query, : len(places)] = hits.scores[query, places]
        return best

    def search_documents(
        self, search: Near, queries: Vectors, k: int, allowed: Allowed | None
    ) -> tuple[RankedRows, RankedRows]:
        """What `search` found for queries (n, dim), and of it the best row of k documents.

        Where the rows found are of fewer documents, these are left out and the others searched, until there are k or
        no more: one document may own all that is near. Each search finds one more document at least.
        """
        if self._firsts is None:
            found = search(queries, k, allowed)
            return found, found
        found = search(queries, SPREAD * k, allowed)
        best = self.best(found, k)
        for query in np.flatnonzero(best.rows[:, -1] < 0):
            if found.rows[query, -1] >= 0:  # else there was nothing more to find
                self._complete(search, queries[query : query + 1], allowed, best, int(query))
        return found, best

    def _complete(self, search: Near, query: Vectors, allowed: Allowed | None, best: RankedRows, place: int) -> None:
        assert self._firsts is not None
        k = best.rows.shape[1]
        rows, scores = (each[place : place + 1] for each in (best.rows, best.scores))
        left = np.ones(len(self._firsts), dtype=np.bool_) if allowed is None else allowed.copy()
        while rows[0, -1] < 0:
            interruption.check()
            left &= ~np.isin(self._firsts, self.keys(rows[0]))
            if not left.any():
                return
            more = self.best(search(query, SPREAD * k, left), k)
            if more.rows[0, 0] < 0:
                return
            # Packed as they are, rows of -1 would be taken for rows.
            real = np.concatenate([rows[0], more.rows[0]]) >= 0
            both = ranking.keys(
                np.concatenate([scores, more.scores], 1)[:, real], np.concatenate([rows, more.rows], 1)[:, real]
            )
            merged = ranking.hits(both, k)
            rows[:], scores[:] = merged.rows, merged.scores

    def keyword_search_documents(self, search: Worded, k: int) -> RankedRows:
        """The same for a search that has nothing but a number of rows to turn."""
        if self._firsts is None:
            return search(k)
        limit = SPREAD * k
        while True:
            found = search(limit)
            best = self.best(found, k)
            lacking = best.rows[:, -1] < 0
            if not (found.rows[lacking, -1] >= 0).any():
                return best
            limit *= _FURTHER

    def fuse(self, parts: Sequence[RankedRows], k: int) -> RankedRows:
        """Documents by reciprocal rank; each shows the row of the first list that has it."""
        fused = fusion.fuse([RankedRows(self.keys(part.rows), part.scores) for part in parts], k)
        if self._firsts is None:
            return fused
        for query, keys in enumerate(fused.rows):
            shown: dict[int, int] = {}
            for part in reversed(parts):
                shown.update(zip(self.keys(part.rows[query]).tolist(), part.rows[query].tolist(), strict=True))
            fused.rows[query] = [-1 if key < 0 else shown[key] for key in keys.tolist()]
        return fused


ROWS = ChunkGrouping(None)  # every chunk is a hit


def _nothing(queries: int, k: int) -> RankedRows:
    return RankedRows(np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32))
