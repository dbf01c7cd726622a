"""Vectors -> hits. Nothing here imports FAISS; folder.py opens an index, build.py makes one.

arrays.py         Arrays on disk
effort.py         How hard a search looks
exact_vectors.py  The vectors of an index, in float16 on disk
factory.py        FAISS factory strings
faiss_library.py  FAISS, from the one place that imports it
flat.py           Every vector compared
folder.py         An index on disk, opened
gpu.py            FAISS on a GPU
kinds.py          Recipe -> index
manifest.py       index.json
recipe.py         How an index is made
stage.py          First stages
staged.py         Two stages
store.py          What ranks candidates again
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from embedship.codes import Vectors
from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Allowed
from embedship.serve.index.effort import SearchEffort

# Up to here comparing the allowed rows one by one costs less than a scan that skips the others, and misses none.
FEW = 4096


class IndexKind(StrEnum):
    """How an index searches."""

    FLAT = "flat"  # every vector compared: exact
    BINARY = "binary"  # sign bits, all compared
    PQ = "pq"  # product quantisation, one bit a dimension, all compared, by FastScan
    RABITQ = "rabitq"  # RaBitQ codes of one bit a dimension, all compared, by FastScan
    IVF_PQ = "ivf-pq"  # the codes of pq in the lists of an inverted file, of which some are scanned
    IVF_RABITQ = "ivf-rabitq"  # those of rabitq, likewise
    HNSW_SQ8 = "hnsw-sq8"  # a graph over vectors of one byte a dimension
    HNSW_RABITQ = "hnsw-rabitq"  # a graph over RaBitQ codes
    FACTORY = "factory"  # a FAISS factory string of the user's own


class IndexSize(NamedTuple):
    """How much an index holds, and how much of it came since its snapshot."""

    documents: int
    rows: int  # chunks where documents were cut, else documents
    fresh: int = 0  # documents that the snapshot lacks, or has otherwise
    fresh_rows: int = 0
    tombstones: int = 0  # rows of the snapshot that count no more
    fresh_bytes: int = 0  # vectors of the fresh ones, in memory

    @property
    def changes(self) -> int:
        """In rows."""
        return self.fresh_rows + self.tombstones


class Index(Protocol):
    """Thread-safe: any number of searches may run at once, each on the thread that asked."""

    @property
    def size(self) -> int: ...

    @property
    def kind(self) -> IndexKind: ...

    @property
    def effort(self) -> SearchEffort:
        """The knobs that this index has, as they were tuned."""

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        """Return (n, k) hits of (n, dim) float32 unit rows, among the rows that are allowed (None: all).

        Where few rows are allowed they are all compared: a first stage finds too little among few. Raises ValueError if
        a shape is wrong, a query is not finite, or k is less than 1; UsageError for an effort this index does not have.
        """

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        """The same, by comparing each query with every allowed vector: what `search` is measured against.

        Slow, and bounded in memory. Meant for shadow queries, not for the request path.
        """


def validate_mask(allowed: Allowed | None, size: int) -> Allowed | None:
    """One flag a row, or None. Row numbers in its place would select wrong rows, silently."""
    if allowed is not None and (allowed.shape != (size,) or allowed.dtype != np.bool_):
        raise ValueError(f"allowed must be bool of shape ({size},), not {allowed.dtype} {allowed.shape}")
    return allowed


def is_selective(allowed: Allowed | None) -> bool:
    return allowed is not None and int(np.count_nonzero(allowed)) <= FEW
