"""The only module that imports FAISS, with helpers to load, save and search its indexes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedship import hardware
from embedship.errors import MissingExtra, UnsafeError
from embedship.serve.documents.filters import Allowed

# With "passive", threads of a build sleep while they wait for each other. Spinning threads would take the cores from
# other programs, and on a busy machine from each other. FAISS's OpenMP reads this variable when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

try:
    import faiss
except ImportError:
    raise MissingExtra("faiss", "cpu") from None

# FAISS's type stubs lack the keywords and arrays that its Python wrappers accept.
untyped: Any = faiss


def on_this_thread() -> None:
    """Make FAISS search on the calling thread only. Costs 0.1 us.

    The server has its own threads. OpenMP keeps this setting per calling thread (libgomp's nthreads-var). If it were
    set only once at start, every other thread would use a pool with a thread per core of the host.
    """
    faiss.omp_set_num_threads(1)


def on_all_threads() -> None:
    """Let a build use all cores that this process may use."""
    faiss.omp_set_num_threads(hardware.streams())


def search_parameters(allowed: Allowed | None) -> Any:
    """Return search parameters that restrict FAISS to the allowed rows, with one bit per row."""
    if allowed is None:
        return None
    return untyped.SearchParameters(sel=selector(allowed))


def selector(allowed: Allowed) -> Any:
    return untyped.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def save(write: Callable[[Any, str], None], index: Any, path: Path) -> None:
    """Write an index. FAISS reports failures as long C++ texts; they become an OSError with the last line."""
    try:
        write(index, str(path))
    except RuntimeError as error:
        raise OSError(None, f"FAISS could not write it ({cause(error)})", str(path)) from None


def load(read: Callable[[str, int], Any], path: Path, kinds: tuple[type, ...], shape: tuple[int, int]) -> Any:
    """Read an index read-only from a file that has already been hashed.

    Raises UnsafeError if it has another type or shape, or if its inverted lists are in another file.
    """
    try:
        index = read(str(path), untyped.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise UnsafeError(f"{path} is damaged: FAISS {faiss.__version__} cannot read it ({cause(error)})") from None
    actual = type(index).__name__, index.ntotal, index.d
    if type(index) not in kinds or actual[1:] != shape:
        raise UnsafeError(f"{path} has {actual}; expected {(kinds[0].__name__, *shape)}")
    if external := _external_lists(index):
        raise UnsafeError(
            f"{path} has {external}: its vectors may be in a file that was never hashed. Build the index again"
        )
    return index


# Lists stored in the index file itself. OnDiskInvertedLists can name any file, and FAISS maps that file writable.
_OWN_LISTS = ("ArrayInvertedLists", "BlockInvertedLists")


def _external_lists(index: Any) -> str | None:
    """Return the type of inverted lists that are not stored in the index file; None if there are none.

    This also checks the index below transforms, and the quantizer, which may itself be an index with lists.
    """
    index = untyped.downcast_index(index) if isinstance(index, untyped.Index) else index
    if isinstance(index, untyped.IndexPreTransform):
        return _external_lists(index.index)
    if not isinstance(index, untyped.IndexIVF):
        return None
    kind = type(untyped.downcast_InvertedLists(index.invlists)).__name__ if index.invlists else "no inverted lists"
    return _external_lists(index.quantizer) if kind in _OWN_LISTS else kind


def version() -> str:
    return str(faiss.__version__)


def cause(error: RuntimeError) -> str:
    """Return the last line of a FAISS error, which has the message."""
    return str(error).strip().rsplit("\n", 1)[-1]


__all__ = [
    "cause",
    "faiss",
    "load",
    "on_all_threads",
    "on_this_thread",
    "save",
    "search_parameters",
    "selector",
    "untyped",
    "version",
]
