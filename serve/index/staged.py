"""Two-stage index: an approximate first stage finds candidates, and codes of 1 or 2 bytes per dimension re-rank them.

Most of the time of a search is spent on the bytes that the first stage reads per vector. The order of its candidates is
only approximate, so it returns more than k of them. The codes of the second stage are mapped from disk, and are read
for the candidates only.
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

# Memory for the gathered candidates of one group of queries, so that a large batch or a large k cannot exhaust memory.
_GATHERED_BYTES = 32 * 2**20

# Maximum bytes gathered for one product, so that they fit into the CPU caches and memory pages are reused.
_RANKED_BYTES = 2 * 2**20

# One call of the first stage makes at most _COMPARED_ROWS comparisons of a row with a query, because a scan cannot be
# interrupted. It gets at least _LEAST_QUERIES queries: with 16 at once FAISS is as fast per query as with hundreds.
_COMPARED_ROWS, _LEAST_QUERIES = 2**25, 16

# A graph is not searched if the allowed rows are few (see `_compare_all`): comparing them all costs about as much as
# visiting the rows that are not allowed.
_WALK = 10


class TwoStageIndex:
    """A first stage in memory, with mapped codes for re-ranking and mapped exact vectors."""

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
        effective = self.effort.overridden_by(effort)
        if is_selective(validate_mask(allowed, self.size)) or self._compare_all(allowed, effective):
            return self._truth.search(queries, k, allowed)
        queries = ranking.validate_queries(queries, k, self._truth.dimension)
        faiss_library.on_this_thread()
        most = self.size if allowed is None else int(np.count_nonzero(allowed))
        candidates = min(effective.candidates(k), most)
        width = min(k, candidates)
        best = np.empty((len(queries), width), dtype=np.int64)
        for group in self._groups(len(queries), candidates):
            interruption.check()
            rows = self._stage.candidates(queries[group], candidates, effective, allowed)
            best[group] = ranking.largest(self.rank(queries[group], rows), width)
        return self._fill_short_results(ranking.hits(best, k), queries, k, min(k, most), allowed)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        return self._truth.search(queries, k, allowed)

    def _compare_all(self, allowed: Allowed | None, effort: SearchEffort) -> bool:
        """Return whether comparing all allowed rows costs less than searching a graph."""
        if allowed is None or effort.ef_search is None:
            return False
        share = float(allowed.mean())
        return bool(share * self.size <= _WALK * effort.ef_search / share)

    def _fill_short_results(
        self, hits: RankedRows, queries: Vectors, k: int, possible: int, allowed: Allowed | None
    ) -> RankedRows:
        """Search exactly for queries with too few hits: a stage that visits only some lists or nodes can miss rows."""
        short = np.flatnonzero(hits.rows[:, possible - 1] < 0)
        if len(short):
            exact = self._truth.search(queries[short], k, allowed)
            hits.rows[short], hits.scores[short] = exact.rows, exact.scores
        return hits

    def _groups(self, queries: int, candidates: int) -> Iterator[slice]:
        gathered = max(1, _GATHERED_BYTES // (4 * self._truth.dimension * candidates))
        step = min(gathered, max(_LEAST_QUERIES, _COMPARED_ROWS // self.size))
        return (slice(start, start + step) for start in range(0, queries, step))

    def rank(self, queries: Vectors, rows: NDArray[np.int64]) -> ranking.Keys:
        """Return (n, candidates) keys, with one gather and one batched product per part.

        vecdot is as fast as matmul here, and never starts a pool of BLAS threads.
        """
        keys = np.empty(rows.shape, dtype=np.int64)
        weighted_queries = self._codes.weigh(queries)
        step = max(1, _RANKED_BYTES // (4 * self._truth.dimension * max(1, rows.shape[1])))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            gathered = self._codes.gather(part)  # (n, candidates, dim) float32
            keys[start : start + step] = ranking.keys(
                np.vecdot(gathered, weighted_queries[start : start + step, None, :]), part
            )
        return keys
