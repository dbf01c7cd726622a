"""How an index is made. What is fixed when it is built lies here; what a search may still turn is its Effort."""

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
    """What ranks the candidates again; on disk and mapped, so only what is gathered is read."""

    INT8 = "int8"  # the bundle's frozen codes: a byte a dimension
    FLOAT16 = "float16"  # the exact vectors themselves


# Links of a node on each layer; on the lowest twice as many, of four bytes each.
_LINKS = 14

# Lists of an inverted file are so many times the root of the rows, each with enough rows to place its centre. FastScan
# goes through the codes of pq so quickly that few lists are the faster.
_LISTS_PER_ROOT: Mapping[IndexKind, int] = MappingProxyType({IndexKind.IVF_PQ: 1, IndexKind.IVF_RABITQ: 4})
_ROWS_PER_LIST = 40

# Dimensions of a part that product quantisation gives four bits: one bit a dimension.
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
    """Raises UsageError where its parts do not fit each other."""

    kind: IndexKind
    factory: str  # the first stage, in FAISS's language
    dimension: int  # of the first stage: a Matryoshka dimension of the model
    store: RerankStore | None  # None: exact already, nothing is ranked again

    def __post_init__(self) -> None:
        if (self.store is None) is not (self.kind is IndexKind.FLAT):
            raise UsageError(
                f"a {self.kind} index has {'no' if self.kind is IndexKind.FLAT else 'a'} store to rank again"
            )
        if self.kind is IndexKind.BINARY and self.dimension % 8:
            raise UsageError(
                f"a binary index needs a dimension divisible by 8, not {self.dimension}: take --kind flat or hnsw-sq8"
            )
        if self.kind in (IndexKind.PQ, IndexKind.IVF_PQ) and self.dimension % PART:
            raise UsageError(
                f"{self.kind} needs a dimension divisible by {PART}, not {self.dimension}: take another kind"
            )

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.factory, f"{self.dimension}d", self.store)))


def of(kind: IndexKind, size: int, dimension: int, store: RerankStore = RerankStore.INT8) -> IndexSpec:
    """The recipe of a kind for so many rows."""
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
    """A power of two near the root of `size`, or four times it; 0 for a kind without lists.

    >>> [lists(Kind.IVF_RABITQ, size) for size in (100, 77_000, 1_000_000)]
    [2, 1024, 4096]
    >>> lists(Kind.IVF_PQ, 229_533), lists(Kind.PQ, 229_533)
    (512, 0)
    """
    if kind not in _LISTS_PER_ROOT:
        return 0
    wanted = min(_LISTS_PER_ROOT[kind] * math.sqrt(size), size / _ROWS_PER_LIST)
    return int(2 ** round(math.log2(max(1.0, wanted))))


def require_matryoshka(pipeline: ModelSpec, dimension: int) -> None:
    """Raise UsageError for a first stage of a dimension that the model was not trained to be cut to."""
    if dimension not in {pipeline.dimension, *pipeline.dimensions}:
        known = ", ".join(map(str, pipeline.dimensions))
        raise UsageError(f"the first stage cannot search {dimension} dimensions: this model may be cut to {known}")
