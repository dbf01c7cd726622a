"""Dense and keyword hits -> one list."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from embedship.ranking import RankedRows

# Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
# SIGIR 2009.
RRF = 60

# Each list is followed so far: what neither has among its first hundred adds too little to reach the first ten.
DEPTH = 100


class SearchMode(StrEnum):
    DENSE = "dense"  # similarity of vectors
    KEYWORD = "keyword"  # BM25
    HYBRID = "hybrid"  # both, fused


def fuse(parts: Sequence[RankedRows], k: int) -> RankedRows:
    """The k rows with the largest sum of 1 / (60 + rank), ranks from 1, over the lists that hold them.

    Only ranks count: a cosine and a BM25 score have no common scale. Of equal sums the lower row comes first.
    """
    queries = len(parts[0].rows)
    fused = RankedRows(np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf, dtype=np.float32))
    for query in range(queries):
        sums: dict[int, float] = {}
        for part in parts:
            for rank, row in enumerate(part.rows[query].tolist(), 1):
                if row >= 0:
                    sums[row] = sums.get(row, 0.0) + 1 / (RRF + rank)
        best = sorted(sums, key=lambda row: (-sums[row], row))[:k]
        fused.rows[query, : len(best)] = best
        fused.scores[query, : len(best)] = [sums[row] for row in best]
    return fused
