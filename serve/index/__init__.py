"""Vectors -> hits. Nothing here imports FAISS; folder.py opens an index, build.py makes one."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from embedship.codes import Vectors
from embedship.ranking import Hits


class Kind(StrEnum):
    """How an index searches."""

    FLAT = "flat"  # every vector in float32: exact
    BINARY = "binary"  # sign bits find candidates, int8 codes rank them: 32 times less memory


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
