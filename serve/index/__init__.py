"""Vectors -> hits. Nothing here imports FAISS; folder.py opens an index, build.py makes one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedship.codes import Vectors


class Kind(StrEnum):
    """How an index searches."""

    FLAT = "flat"  # every vector in float32: exact
    BINARY = "binary"  # sign bits find candidates, int8 codes rank them: 32 times less memory


@dataclass(frozen=True, slots=True)
class Hits:
    """The k best rows of each query, best first; of equal scores the lower row first."""

    rows: NDArray[np.int64]  # (n, k), -1 where the index holds fewer than k
    scores: NDArray[np.float32]  # (n, k) cosine, -inf where there is no row


class Index(Protocol):
    """Thread-safe: any number of searches may run at once, each on the thread that asked."""

    @property
    def size(self) -> int: ...

    @property
    def kind(self) -> Kind: ...

    def search(self, queries: Vectors, k: int) -> Hits:
        """Return (n, k) hits of (n, dim) float32 unit rows.

        Raises ValueError if the shape is wrong, a query is not finite, or k is less than 1.
        """

    def exact(self, queries: Vectors, k: int) -> Hits:
        """The same, by comparing each query with every vector: what `search` is measured against.

        Slow, and bounded in memory. Meant for shadow queries, not for the request path.
        """
