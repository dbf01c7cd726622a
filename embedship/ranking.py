"""Scores -> the best k, with one order for all: higher score first, of equal scores the lower row first.

Score and row are packed into one integer, so the k largest are never ambiguous, whatever the order of the
candidates, and merging two lists is a concatenation.
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
    """The k best rows of each query, best first; of equal scores the lower row first."""

    rows: NDArray[np.int64]  # (n, k), -1 where the index holds fewer than k
    scores: NDArray[np.float32]  # (n, k) cosine, -inf where there is no row


def keys(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Keys:
    """Pack (n, m) scores and their (n, m) or (m,) rows; of row -1, which is none, the least key there is."""
    packed = (_ordered(scores).astype(np.int64) << 32) | (_LAST_ROW - rows)
    return np.where(rows < 0, NOTHING, packed)


def largest(packed: Keys, k: int) -> Keys:
    """The k largest of each row, unsorted; all of them if there are fewer."""
    surplus = packed.shape[1] - k
    return packed if surplus <= 0 else np.partition(packed, surplus, axis=1)[:, surplus:]


def hits(packed: Keys, k: int) -> RankedRows:
    """Sort, unpack, and fill up to k columns."""
    best = np.sort(largest(packed, k), axis=1)[:, ::-1]
    found = RankedRows(np.full((len(best), k), -1, dtype=np.int64), np.full((len(best), k), -np.inf, dtype=np.float32))
    width = best.shape[1]
    found.rows[:, :width] = _LAST_ROW - (best & _LAST_ROW)
    found.scores[:, :width] = _scores((best >> 32).astype(np.int32))
    none = best == NOTHING
    found.rows[:, :width][none], found.scores[:, :width][none] = -1, -np.inf
    return found


def checked(queries: Vectors, k: int, dimension: int) -> Vectors:
    """Queries as FAISS needs them: contiguous float32. A NaN would match nothing and look like an empty index."""
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise ValueError(f"queries must have shape (n, {dimension}), not {queries.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if not np.isfinite(queries).all():
        raise ValueError("queries hold NaN or infinity")
    return np.ascontiguousarray(queries, dtype=np.float32)


def _ordered(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bits of a float32 as an integer of the same order; adding 0 makes -0.0 the 0.0 it equals."""
    bits = (scores + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & _MAGNITUDE)


def _scores(ordered: NDArray[np.int32]) -> NDArray[np.float32]:
    return (ordered ^ ((ordered >> 31) & _MAGNITUDE)).view(np.float32)
