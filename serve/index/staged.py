"""Two stages: a rough first one finds candidates, codes of a byte or two a dimension rank them again.

What a first stage reads of each vector is what a search costs; its order is rough, so it is asked for more than k.
What the second gathers lies on disk, mapped, and is read for the candidates alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embedship import ranking
from embedship.codes import Vectors
from embedship.ranking import RankedRows
from embedship.serve import interruption
from embedship.serve.documents.filters import Allowed
from embedship.serve.index import IndexKind, faiss_library, is_selective, validate_mask
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.stage import CandidateGenerator
from embedship.serve.index.store import RerankCodes

# What the candidates of one group of queries may take once they are gathered, so that a large batch or a large k
# cannot exhaust memory.
_GATHERED_BYTES = 32 * 2**20

# What is gathered for one product: it stays in the caches, and no page is asked of the system anew.
_RANKED_BYTES = 2 * 2**20

# Rows that one call of the first stage compares with its queries at most, and queries it is given at least: a scan
# cannot be interrupted, and 16 queries at once cost FAISS no more a query than hundreds do.
_COMPARED_ROWS, _LEAST_QUERIES = 2**25, 16

# A graph that may visit so few rows is left alone: comparing them all costs about as much as walking around the others.
_WALK = 10


class TwoStageIndex:
    """A first stage in memory, a store mapped, and the truth, mapped."""

    def __init__(
        self, kind: IndexKind, stage: CandidateGenerator, codes: RerankCodes, truth: ExactVectors, effort: SearchEffort
    ) -> None:
        self.kind = kind
        self.size = truth.size
        self.effort = effort
        self._stage = stage
        self._codes = codes
        self._truth = truth

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        turned = self.effort.overridden_by(effort)
        if is_selective(validate_mask(allowed, self.size)) or self._better_compared(allowed, turned):
            return self._truth.search(queries, k, allowed)
        queries = ranking.checked(queries, k, self._truth.dimension)
        faiss_library.on_this_thread()
        most = self.size if allowed is None else int(np.count_nonzero(allowed))
        candidates = min(turned.candidates(k), most)
        width = min(k, candidates)
        best = np.empty((len(queries), width), dtype=np.int64)
        for group in self._groups(len(queries), candidates):
            interruption.check()
            rows = self._stage.candidates(queries[group], candidates, turned, allowed)
            best[group] = ranking.largest(self.ranked(queries[group], rows), width)
        return self._completed(ranking.hits(best, k), queries, k, min(k, most), allowed)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        return self._truth.search(queries, k, allowed)

    def _better_compared(self, allowed: Allowed | None, effort: SearchEffort) -> bool:
        if allowed is None or effort.ef_search is None:
            return False
        share = float(allowed.mean())
        return bool(share * self.size <= _WALK * effort.ef_search / share)

    def _completed(
        self, hits: RankedRows, queries: Vectors, k: int, possible: int, allowed: Allowed | None
    ) -> RankedRows:
        """A first stage that visits some lists or nodes only may find fewer than there are."""
        short = np.flatnonzero(hits.rows[:, possible - 1] < 0)
        if len(short):
            exact = self._truth.search(queries[short], k, allowed)
            hits.rows[short], hits.scores[short] = exact.rows, exact.scores
        return hits

    def _groups(self, queries: int, candidates: int) -> Iterator[slice]:
        gathered = max(1, _GATHERED_BYTES // (4 * self._truth.dimension * candidates))
        step = min(gathered, max(_LEAST_QUERIES, _COMPARED_ROWS // self.size))
        return (slice(start, start + step) for start in range(0, queries, step))

    def ranked(self, queries: Vectors, rows: NDArray[np.int64]) -> ranking.Keys:
        """(n, candidates) keys: one gather, one batched product.

        vecdot and not matmul: as fast, and it never wakes a pool of BLAS threads.
        """
        keys = np.empty(rows.shape, dtype=np.int64)
        weighed = self._codes.weigh(queries)
        step = max(1, _RANKED_BYTES // (4 * self._truth.dimension * max(1, rows.shape[1])))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            gathered = self._codes.gather(some)  # (n, candidates, dim) float32
            keys[start : start + step] = ranking.keys(np.vecdot(gathered, weighed[start : start + step, None, :]), some)
        return keys
