"""FAISS factory strings: which first stages are built from them, and which are refused.

The first stage compares unit vectors by L2 distance, which gives the order of the cosine. L2 is used because not every
FAISS index supports the inner product (IndexHNSWRaBitQ does not), and all of them support L2.
"""

from __future__ import annotations

from typing import Any

from embedship.errors import UsageError
from embedship.serve.index.faiss_library import cause, faiss, untyped

_GRAPHS = ("IndexHNSWFlat", "IndexHNSWSQ", "IndexHNSWRaBitQ", "IndexHNSWPQ")
_LISTS = (
    "IndexIVFFlat",
    "IndexIVFScalarQuantizer",
    "IndexIVFRaBitQ",
    "IndexIVFRaBitQFastScan",
    "IndexIVFPQ",
    "IndexIVFPQFastScan",
)
# FAISS cannot restrict these types to a set of rows, so more rows are requested, and rows that are not allowed are
# dropped.
UNMASKED = ("IndexRaBitQFastScan", "IndexPQFastScan")
_SCANS = ("IndexFlatL2", "IndexFlat", "IndexScalarQuantizer", "IndexRaBitQ", *UNMASKED)

_REASONS = {
    "IndexIDMap": "embedship numbers the rows, and documents.sqlite has their ids: leave IDMap out",
    "IndexIDMap2": "embedship numbers the rows, and documents.sqlite has their ids: leave IDMap out",
    "IndexRefine": "candidates are re-ranked from the store on disk (--store): leave the refinement out",
    "IndexRefineFlat": "candidates are re-ranked from the store on disk (--store): leave the refinement out",
}


def make(factory: str, dimension: int) -> Any:
    """Return an empty first stage for unit vectors. Raises UsageError if the string is not supported."""
    if factory.startswith("B"):
        raise UsageError(f"factory {factory!r}: use --kind binary for sign bits")
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_L2)
    except RuntimeError as error:
        raise UsageError(f"factory {factory!r}: FAISS {faiss.__version__} says {cause(error)}") from None
    name = type(core(index)).__name__
    if name not in (*_GRAPHS, *_LISTS, *_SCANS):
        reason = _REASONS.get(name, f"{name} is not supported as a first stage: use one of IVF, HNSW, SQ, RaBitQ")
        raise UsageError(f"factory {factory!r}: {reason}")
    return index


def core(index: Any) -> Any:
    """Return the index without the transforms before it (PCA, OPQ, a rotation)."""
    index = faiss.downcast_index(index)
    return core(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def is_graph(index: Any) -> bool:
    return isinstance(core(index), faiss.IndexHNSW)


def is_lists(index: Any) -> bool:
    return isinstance(core(index), faiss.IndexIVF)


def is_float_graph(index: Any) -> bool:
    """Return whether it is an HNSW graph over the vectors themselves, without a transform: a GPU can build these."""
    return type(faiss.downcast_index(index)) is faiss.IndexHNSWFlat


def kinds(index: Any) -> tuple[type, ...]:
    """Return the types that an index like `index` may have on disk. A graph built on a GPU has a different type."""
    return (type(index), untyped.IndexHNSWCagra) if is_float_graph(index) else (type(index),)
