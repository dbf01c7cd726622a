"""FAISS, from the one place that imports it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedship import hardware
from embedship.errors import MissingExtra, UnsafeError
from embedship.serve.documents.filters import Allowed

# Threads of a build that wait for each other sleep: spinning, they take the cores from whoever shares the machine, and
# on a busy one from each other. Read when FAISS loads its OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

try:
    import faiss
except ImportError:
    raise MissingExtra("faiss", "cpu") from None

# FAISS's own stubs do not know the keywords and arrays that its Python wrappers take.
untyped: Any = faiss


def on_this_thread() -> None:
    """Make FAISS search on the calling thread alone; costs 0.1 us.

    The server has its own threads. OpenMP keeps this setting per calling thread (libgomp's nthreads-var), so setting
    it once at start would leave every other thread with a pool as wide as the host.
    """
    faiss.omp_set_num_threads(1)


def on_all_threads() -> None:
    """For a build: as many threads as this machine grants."""
    faiss.omp_set_num_threads(hardware.streams())


def selected(allowed: Allowed | None) -> Any:
    """Search parameters that let FAISS find the allowed rows alone. One bit a row, tested as the scan goes by."""
    if allowed is None:
        return None
    return untyped.SearchParameters(sel=selector(allowed))


def selector(allowed: Allowed) -> Any:
    return untyped.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def save(write: Callable[[Any, str], None], index: Any, path: Path) -> None:
    """Write an index; FAISS's own error, a page of C++, becomes an OSError."""
    try:
        write(index, str(path))
    except RuntimeError as error:
        raise OSError(None, f"FAISS could not write it ({cause(error)})", str(path)) from None


def load(read: Callable[[str, int], Any], path: Path, kinds: tuple[type, ...], shape: tuple[int, int]) -> Any:
    """Read an index whose file has been hashed already, for reading only.

    Raises UnsafeError if it is of no such kind or shape, and if its inverted lists lie in another file.
    """
    try:
        index = read(str(path), untyped.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise UnsafeError(f"{path} is damaged: FAISS {faiss.__version__} cannot read it ({cause(error)})") from None
    found = type(index).__name__, index.ntotal, index.d
    if type(index) not in kinds or found[1:] != shape:
        raise UnsafeError(f"{path} holds {found}; {(kinds[0].__name__, *shape)} was expected")
    if elsewhere := _lists_elsewhere(index):
        raise UnsafeError(
            f"{path} holds {elsewhere}: its vectors may lie in a file that was never hashed. Build it again"
        )
    return index


# Lists that lie in the index file itself. OnDiskInvertedLists name any file of the system, and FAISS maps it writable.
_OWN_LISTS = ("ArrayInvertedLists", "BlockInvertedLists")


def _lists_elsewhere(index: Any) -> str | None:
    """The type of inverted lists that do not lie in the index file; None where there are none such.

    Transforms before the lists are looked through, and so is the quantizer, which may be an index with lists, too.
    """
    index = untyped.downcast_index(index) if isinstance(index, untyped.Index) else index
    if isinstance(index, untyped.IndexPreTransform):
        return _lists_elsewhere(index.index)
    if not isinstance(index, untyped.IndexIVF):
        return None
    kind = type(untyped.downcast_InvertedLists(index.invlists)).__name__ if index.invlists else "no inverted lists"
    return _lists_elsewhere(index.quantizer) if kind in _OWN_LISTS else kind


def version() -> str:
    return str(faiss.__version__)


def cause(error: RuntimeError) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]


__all__ = [
    "cause",
    "faiss",
    "load",
    "on_all_threads",
    "on_this_thread",
    "save",
    "selected",
    "selector",
    "untyped",
    "version",
]
