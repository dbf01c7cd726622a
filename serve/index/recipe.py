"""Recipe of an index: everything that is fixed when it is built. Settings of a search are in effort.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from embedship.bundle import ManifestRecord, ModelSpec
from embedship.errors import UsageError
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort


class RerankStore(StrEnum):
    """The codes that re-rank the candidates. They are mapped from disk, so only the gathered rows are read."""

    INT8 = "int8"  # codes with the fixed scale of the bundle: one byte per dimension
    FLOAT16 = "float16"  # the exact vectors themselves


# Links per node on each layer of a graph; the lowest layer has twice as many. Each link takes four bytes.
_LINKS = 14

# The number of lists is this factor times the square root of the number of rows, and each list needs enough rows to
# place its centre. FastScan reads the codes of pq so fast that few lists are faster.
_LISTS_PER_ROOT: Mapping[IndexKind, int] = MappingProxyType({IndexKind.IVF_PQ: 1, IndexKind.IVF_RABITQ: 4})
_ROWS_PER_LIST = 40

# Product quantisation encodes each group of this many dimensions in four bits: one bit per dimension.
PART = 4

DEFAULTS: Mapping[IndexKind, SearchEffort] = MappingProxyType(
    {
        IndexKind.FLAT: SearchEffort(),
        IndexKind.BINARY: SearchEffort(oversample=40),
        IndexKind.PQ: SearchEffort(oversample=10),
        IndexKind.RABITQ: SearchEffort(oversample=10),
        IndexKind.IVF_PQ: SearchEffort(oversample=10, nprobe=128),
        IndexKind.IVF_RABITQ: SearchEffort(oversample=20, nprobe=64),
        IndexKind.HNSW_SQ8: SearchEffort(oversample=2, ef_search=128),
        IndexKind.HNSW_RABITQ: SearchEffort(oversample=20, ef_search=256),
    }
)


class IndexSpec(ManifestRecord, frozen=True):
    """The recipe of an index. Raises UsageError if its parts do not fit each other."""

    kind: IndexKind
    factory: str  # FAISS factory string of the first stage
    dimension: int  # of the first stage: a Matryoshka dimension of the model
    store: RerankStore | None  # None for an exact index, which re-ranks nothing

    def __post_init__(self) -> None:
        if (self.store is None) is not (self.kind is IndexKind.FLAT):
            need = "no store" if self.kind is IndexKind.FLAT else "a store"
            raise UsageError(f"a {self.kind} index must have {need} for re-ranking")
        if self.kind is IndexKind.BINARY and self.dimension % 8:
            raise UsageError(
                f"a binary index needs a dimension divisible by 8, not {self.dimension}: use --kind flat or hnsw-sq8"
            )
        if self.kind in (IndexKind.PQ, IndexKind.IVF_PQ) and self.dimension % PART:
            raise UsageError(
                f"{self.kind} needs a dimension divisible by {PART}, not {self.dimension}: use another kind"
            )

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.factory, f"{self.dimension}d", self.store)))


def make_recipe(kind: IndexKind, size: int, dimension: int, store: RerankStore = RerankStore.INT8) -> IndexSpec:
    """Return the recipe of a kind of index for `size` rows."""
    return IndexSpec(
        kind=kind,
        factory=_FACTORIES[kind].format(lists=lists(kind, size), links=_LINKS, parts=dimension // PART),
        dimension=dimension,
        store=None if kind is IndexKind.FLAT else store,
    )


_FACTORIES: Mapping[IndexKind, str] = MappingProxyType(
    {
        IndexKind.FLAT: "SQfp16",
        IndexKind.BINARY: "BFlat",
        IndexKind.PQ: "PQ{parts}x4fs",
        IndexKind.RABITQ: "RaBitQfs",
        IndexKind.IVF_PQ: "IVF{lists},PQ{parts}x4fs",
        IndexKind.IVF_RABITQ: "IVF{lists},RaBitQfs",
        IndexKind.HNSW_SQ8: "HNSW{links},SQ8",
        IndexKind.HNSW_RABITQ: "HNSW{links},RaBitQ",
    }
)


def lists(kind: IndexKind, size: int) -> int:
    """Return a power of two near the square root of `size`, or near four times it; 0 for a kind without lists.

    >>> [lists(IndexKind.IVF_RABITQ, size) for size in (100, 77_000, 1_000_000)]
    [2, 1024, 4096]
    >>> lists(IndexKind.IVF_PQ, 229_533), lists(IndexKind.PQ, 229_533)
    (512, 0)
    """
    if kind not in _LISTS_PER_ROOT:
        return 0
    wanted = min(_LISTS_PER_ROOT[kind] * math.sqrt(size), size / _ROWS_PER_LIST)
    return int(2 ** round(math.log2(max(1.0, wanted))))


def require_matryoshka(pipeline: ModelSpec, dimension: int) -> None:
    """Raise UsageError if the model was not trained for truncation to the dimension of the first stage."""
    if dimension not in {pipeline.dimension, *pipeline.dimensions}:
        known = ", ".join(map(str, pipeline.dimensions))
        raise UsageError(
            f"the first stage cannot use {dimension} dimensions: vectors of this model may be truncated to {known}"
        )
