"""Index: finds the nearest vectors. This file does not import FAISS.

arrays.py         Array files: written row by row, read through a memory map
effort.py         Search effort: settings that trade time for recall
exact_vectors.py  The exact vectors of an index, and exact search over them
factory.py        FAISS factory strings that are supported
faiss_library.py  The only module that imports FAISS, with helpers
flat.py           Flat index: compares every vector
folder.py         Opens an index folder
gpu.py            FAISS on a GPU, for faster builds
kinds.py          Writes and opens an index of any kind from its recipe
manifest.py       index.json: content, model and file hashes of an index
recipe.py         Recipe of an index: everything that is fixed when it is built
signing.py        Signatures of indexes
stage.py          First stages: return candidates
staged.py         Two-stage index: a first stage, then re-ranking
store.py          Codes that re-rank candidates
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from embedship.codes import Vectors
from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Allowed
from embedship.serve.index.effort import SearchEffort

# Up to this many allowed rows are compared one by one: that costs less than a scan that skips the others, and is exact.
FEW = 4096


class IndexKind(StrEnum):
    """The search method of an index."""

    FLAT = "flat"  # compares every vector: exact
    BINARY = "binary"  # compares the sign bits of every vector
    PQ = "pq"  # product quantisation, one bit per dimension; compares all codes, with FastScan
    RABITQ = "rabitq"  # RaBitQ codes, one bit per dimension; compares all codes, with FastScan
    IVF_PQ = "ivf-pq"  # the codes of `pq` in the lists of an inverted file; scans some of the lists
    IVF_RABITQ = "ivf-rabitq"  # the codes of `rabitq` in the lists of an inverted file; scans some of the lists
    HNSW_SQ8 = "hnsw-sq8"  # a graph over vectors of one byte per dimension
    HNSW_RABITQ = "hnsw-rabitq"  # a graph over RaBitQ codes
    FACTORY = "factory"  # a FAISS factory string from the user


class IndexSize(NamedTuple):
    """The size of an index, and how much of it changed after its snapshot."""

    documents: int
    rows: int  # chunks if documents were chunked, else documents
    fresh: int = 0  # documents that are new or changed since the snapshot
    fresh_rows: int = 0
    tombstones: int = 0  # rows of the snapshot that are deleted or replaced
    fresh_bytes: int = 0  # memory for the vectors of the fresh documents

    @property
    def changes(self) -> int:
        """The number of changed rows since the snapshot."""
        return self.fresh_rows + self.tombstones


class Index(Protocol):
    """Searches vectors. Thread-safe: many searches may run at once, each on the thread of its caller."""

    @property
    def size(self) -> int: ...

    @property
    def kind(self) -> IndexKind: ...

    @property
    def effort(self) -> SearchEffort:
        """The effort settings of this index, with their tuned values."""

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        """Return the k nearest allowed rows (`allowed` None: all rows) for (n, dim) float32 unit queries.

        If few rows are allowed, all of them are compared, because a first stage finds too few of them. Raises
        ValueError if a shape is wrong, a query is not finite, or k is less than 1; UsageError for an effort setting
        that this index does not have.
        """

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        """Like `search`, but compare each query with every allowed vector. Used to measure the recall of `search`.

        Slow, with bounded memory. Meant for shadow queries, not for requests.
        """


def validate_mask(allowed: Allowed | None, size: int) -> Allowed | None:
    """Return `allowed`. Raise ValueError unless it is None or (size,) bool.

    An array of row numbers would silently select wrong rows.
    """
    if allowed is not None and (allowed.shape != (size,) or allowed.dtype != np.bool_):
        raise ValueError(f"allowed must be bool of shape ({size},), not {allowed.dtype} {allowed.shape}")
    return allowed


def is_selective(allowed: Allowed | None) -> bool:
    """Return whether at most FEW rows are allowed."""
    return allowed is not None and int(np.count_nonzero(allowed)) <= FEW
