"""Groups rows into documents, so that k hits are k documents, each with its best chunk if documents were chunked."""

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

# Number of rows that are requested first per wanted document: neighbouring chunks of a document are often both near
# the query.
SPREAD = 3

# A keyword search is repeated with this many times the rows if the found rows belong to too few documents.
_FURTHER = 8

VectorSearch = Callable[[Vectors, int, Allowed | None], RankedRows]
KeywordSearch = Callable[[int], RankedRows]


class ChunkGrouping:
    """Maps rows to documents. `firsts` (size,) is the first row of each row's document; None: every row is a hit."""

    def __init__(self, firsts: NDArray[np.uint32] | None) -> None:
        self._firsts = firsts

    def keys(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the key of each hit: the first row of its document. -1 stays -1."""
        if self._firsts is None:
            return rows
        return np.where(rows < 0, -1, self._firsts[rows].astype(np.int64))

    def members(self, key: int) -> NDArray[np.int64]:
        """Return all rows of the document with this first row."""
        return np.array([key]) if self._firsts is None else np.flatnonzero(self._firsts == key)

    def best(self, hits: RankedRows, k: int) -> RankedRows:
        """Return (n, k) hits: per document the row that comes first, in the order of the hits; -1 for none."""
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
        self, search: VectorSearch, queries: Vectors, k: int, allowed: Allowed | None
    ) -> tuple[RankedRows, RankedRows]:
        """Return the hits of `search` for queries (n, dim), and the best row of each of k documents.

        If the rows found belong to fewer than k documents, the other documents are searched again, until there are k or
        no more: all nearest rows may belong to one document. Each search finds at least one more document.
        """
        if self._firsts is None:
            hits = search(queries, k, allowed)
            return hits, hits
        hits = search(queries, SPREAD * k, allowed)
        best = self.best(hits, k)
        for query in np.flatnonzero(best.rows[:, -1] < 0):
            if hits.rows[query, -1] >= 0:  # else there are no more rows
                self._complete(search, queries[query : query + 1], allowed, best, int(query))
        return hits, best

    def _complete(
        self, search: VectorSearch, query: Vectors, allowed: Allowed | None, best: RankedRows, place: int
    ) -> None:
        assert self._firsts is not None
        k = best.rows.shape[1]
        rows, scores = (each[place : place + 1] for each in (best.rows, best.scores))
        remaining = np.ones(len(self._firsts), dtype=np.bool_) if allowed is None else allowed.copy()
        while rows[0, -1] < 0:
            interruption.check()
            remaining &= ~np.isin(self._firsts, self.keys(rows[0]))
            if not remaining.any():
                return
            more = self.best(search(query, SPREAD * k, remaining), k)
            if more.rows[0, 0] < 0:
                return
            # Rows of -1 are removed first: once packed into keys they would look like real rows.
            real = np.concatenate([rows[0], more.rows[0]]) >= 0
            both = ranking.keys(
                np.concatenate([scores, more.scores], 1)[:, real], np.concatenate([rows, more.rows], 1)[:, real]
            )
            merged = ranking.hits(both, k)
            rows[:], scores[:] = merged.rows, merged.scores

    def keyword_search_documents(self, search: KeywordSearch, k: int) -> RankedRows:
        """Return the best row of each of k documents for a search that only takes a number of rows."""
        if self._firsts is None:
            return search(k)
        limit = SPREAD * k
        while True:
            hits = search(limit)
            best = self.best(hits, k)
            incomplete = best.rows[:, -1] < 0
            if not (hits.rows[incomplete, -1] >= 0).any():
                return best
            limit *= _FURTHER

    def fuse(self, parts: Sequence[RankedRows], k: int) -> RankedRows:
        """Fuse lists of documents by reciprocal rank. A document's row is from the first list that contains it."""
        fused = fusion.fuse([RankedRows(self.keys(part.rows), part.scores) for part in parts], k)
        if self._firsts is None:
            return fused
        for query, keys in enumerate(fused.rows):
            best_rows: dict[int, int] = {}
            for part in reversed(parts):
                best_rows.update(zip(self.keys(part.rows[query]).tolist(), part.rows[query].tolist(), strict=True))
            fused.rows[query] = [-1 if key < 0 else best_rows[key] for key in keys.tolist()]
        return fused


ROWS = ChunkGrouping(None)  # every chunk is a hit


def _nothing(queries: int, k: int) -> RankedRows:
    return RankedRows(np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32))
