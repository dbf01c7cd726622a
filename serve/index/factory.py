"""FAISS factory strings: which first stages we build from them, and which we refuse.

The first stage compares unit vectors by L2, which ranks them as the cosine does: inner product is not what every FAISS
index can do (IndexHNSWRaBitQ cannot), L2 is.
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
# Those that cannot be asked for some rows alone are asked for more, and what is not allowed is left out.
UNMASKED = ("IndexRaBitQFastScan", "IndexPQFastScan")
_SCANS = ("IndexFlatL2", "IndexFlat", "IndexScalarQuantizer", "IndexRaBitQ", *UNMASKED)

_REASONS = {
    "IndexIDMap": "rows are numbered by us, and documents.sqlite knows their ids: leave IDMap out",
    "IndexIDMap2": "rows are numbered by us, and documents.sqlite knows their ids: leave IDMap out",
    "IndexRefine": "candidates are ranked again from the store on disk, by --store: leave the refinement out",
    "IndexRefineFlat": "candidates are ranked again from the store on disk, by --store: leave the refinement out",
}


def make(factory: str, dimension: int) -> Any:
    """An empty first stage over unit vectors. Raises UsageError with the reason where it is none."""
    if factory.startswith("B"):
        raise UsageError(f"factory {factory!r}: for sign bits take --kind binary")
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_L2)
    except RuntimeError as error:
        raise UsageError(f"factory {factory!r}: FAISS {faiss.__version__} says {cause(error)}") from None
    found = type(core(index)).__name__
    if found not in (*_GRAPHS, *_LISTS, *_SCANS):
        reason = _REASONS.get(found, f"{found} has not been tried as a first stage: take one of IVF, HNSW, SQ, RaBitQ")
        raise UsageError(f"factory {factory!r}: {reason}")
    return index


def core(index: Any) -> Any:
    """Without the transforms before it (PCA, OPQ, a rotation)."""
    index = faiss.downcast_index(index)
    return core(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def is_graph(index: Any) -> bool:
    return isinstance(core(index), faiss.IndexHNSW)


def is_lists(index: Any) -> bool:
    return isinstance(core(index), faiss.IndexIVF)


def is_float_graph(index: Any) -> bool:
    """What a GPU can build in HNSW's place: a graph over the vectors themselves, with no transform before it."""
    return type(faiss.downcast_index(index)) is faiss.IndexHNSWFlat


def kinds(index: Any) -> tuple[type, ...]:
    """The types that an index of this recipe may have on disk: a graph that a GPU built has its own."""
    return (type(index), untyped.IndexHNSWCagra) if is_float_graph(index) else (type(index),)
