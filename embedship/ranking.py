"""Ranking: selects the k best rows. The order is the same everywhere: by falling score, then by rising row number.

Score and row are packed into one integer. So the k largest do not depend on the order of the candidates, and two lists
can be merged by concatenation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedship.codes import Vectors

Keys = NDArray[np.int64]  # (n, m), larger is better
_LAST_ROW = 2**32 - 1
NOTHING = np.iinfo(np.int64).min
_MAGNITUDE = np.int32(0x7FFFFFFF)


@dataclass(frozen=True, slots=True)
class RankedRows:
    """The k best rows of each query, best first. For equal scores the lower row is first."""

    rows: NDArray[np.int64]  # (n, k), -1 if the index has fewer than k rows
    scores: NDArray[np.float32]  # (n, k) cosine, -inf where rows is -1


def keys(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Keys:
    """Pack (n, m) scores and their (n, m) or (m,) rows. Row -1, which means no row, gets the smallest key."""
    packed = (_ordered(scores).astype(np.int64) << 32) | (_LAST_ROW - rows)
    return np.where(rows < 0, NOTHING, packed)


def largest(packed: Keys, k: int) -> Keys:
    """Return the k largest keys of each row, unsorted, or all if there are fewer."""
    surplus = packed.shape[1] - k
    return packed if surplus <= 0 else np.partition(packed, surplus, axis=1)[:, surplus:]


def hits(packed: Keys, k: int) -> RankedRows:
    """Sort and unpack keys into k columns, filled with -1 and -inf."""
    best = np.sort(largest(packed, k), axis=1)[:, ::-1]
    ranked = RankedRows(np.full((len(best), k), -1, dtype=np.int64), np.full((len(best), k), -np.inf, dtype=np.float32))
    width = best.shape[1]
    ranked.rows[:, :width] = _LAST_ROW - (best & _LAST_ROW)
    ranked.scores[:, :width] = _scores((best >> 32).astype(np.int32))
    none = best == NOTHING
    ranked.rows[:, :width][none], ranked.scores[:, :width][none] = -1, -np.inf
    return ranked


def validate_queries(queries: Vectors, k: int, dimension: int) -> Vectors:
    """Return queries as FAISS needs them: contiguous float32. Raises ValueError for NaN, which would match nothing."""
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise ValueError(f"queries must have shape (n, {dimension}), not {queries.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if not np.isfinite(queries).all():
        raise ValueError("queries contain NaN or infinity")
    return np.ascontiguousarray(queries, dtype=np.float32)


def _ordered(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return float32 bits as integers that sort like the scores. Adding 0 turns -0.0 into 0.0, so both become equal."""
    bits = (scores + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & _MAGNITUDE)


def _scores(ordered: NDArray[np.int32]) -> NDArray[np.float32]:
    return (ordered ^ ((ordered >> 31) & _MAGNITUDE)).view(np.float32)
