"""The immutable part of a live index: the index itself, or what a compaction made of it and its changes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.errors import UnsafeError
from embedship.files import sealed
from embedship.files.sealed import SealedFile
from embedship.serve.documents.store import DOCUMENTS
from embedship.serve.index import Index, manifest
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.folder import load
from embedship.serve.index.manifest import FORMAT, MANIFEST, IndexManifest
from embedship.serve.live.database import LiveState

Numbers = NDArray[np.int64]  # (size,) rising: the number of each row, by which the database knows it

_PREFIX = "gen-"


class IndexSnapshot:
    """Thread-safe. Its folder is not swept while it is open, here or in another process: a shared lock says so.

    It is closed when the last view of it is gone.
    """

    def __init__(self, folder: Path, found: IndexManifest, numbers: Numbers) -> None:
        self.name = folder.name
        self.manifest = found
        self.numbers = numbers
        self.index: Index = load(folder, found)
        self.truth = ExactVectors.open(folder, (found.size, found.dimension))

    @classmethod
    def origin(cls, index: Path, bundle: Bundle) -> Self:
        """The index itself, hashed: its rows are their own numbers. Raises what IndexFolder.open does."""
        found = manifest.read(index)
        manifest.require_match(index, found, bundle)
        manifest.verify(index, found)
        opened = cls(index, found, np.arange(found.size))
        opened.name = ""
        return opened

    @classmethod
    def open(cls, folder: Path, digest: str, numbers: Numbers, bundle: Bundle) -> Self:
        """One that a compaction made, hashed. Raises FileNotFoundError if another process has swept it."""
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            found = _verified(folder, digest)
            manifest.require_match(folder, found, bundle)
            opened = cls(folder, found, numbers)
        except BaseException:
            os.close(lock)
            raise
        weakref.finalize(opened, os.close, lock)
        return opened

    @property
    def size(self) -> int:
        return self.manifest.size

    def counts(self, state: LiveState) -> bool:
        """Whether it is the one that a state names; two of the same documents may have one digest."""
        return (self.name, self.manifest.digest) == (state.snapshot, state.digest)

    def places(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of those of these documents that it holds."""
        rows = np.searchsorted(self.numbers, numbers)
        known = rows < self.size
        known[known] = self.numbers[rows[known]] == numbers[known]
        return rows[known]


def write(folder: Path, blocks: Iterable[Vectors], size: int, documents: int, before: IndexManifest) -> IndexManifest:
    """Write a snapshot of (size, dim) unit vectors, those of so many documents, and seal it.

    Kind and tuning are those of the one before. It has no documents: those lie in the database, of which there is one.
    """
    from embedship.serve.index import faiss_library, kinds

    faiss_library.on_this_thread()  # searches need the other cores
    truth = ExactVectors.write(folder, blocks, (size, before.dimension))
    kinds.write(folder, truth, before.recipe, before.packing, before.effort)
    files = {name: SealedFile.of(folder / name) for name in sorted(_files(before))}
    described = msgspec.structs.replace(
        before, size=size, documents=documents, created=sealed.creation_time(), files=files
    )
    return sealed.write(folder / MANIFEST, described)


def name_after(name: str) -> str:
    """
    >>> name_after(""), name_after("gen-000041")
    ('gen-000001', 'gen-000042')
    """
    return f"{_PREFIX}{int(name.removeprefix(_PREFIX) or 0) + 1:06}"


def demand_name(name: str, database: Path) -> None:
    """Raise UnsafeError unless it is one that `name_after` gives: the file that names it may come from elsewhere."""
    if not re.fullmatch(rf"{_PREFIX}[0-9]{{6,}}", name):
        raise UnsafeError(f"{database} names the snapshot {name!r}, which no compaction made: put a copy back")


def sweep(folder: Path, keep: str) -> None:
    """Remove the snapshots that count no more, but those that somebody still has open. For who holds the write lock."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path.name != keep:
            _remove_unless_open(path)


def _remove_unless_open(path: Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # no folder: none of ours
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # a reader has it: the next sweep will find it
    finally:
        os.close(lock)


def _files(found: IndexManifest) -> frozenset[str]:
    return manifest.files(found.recipe) - {DOCUMENTS}


def _verified(folder: Path, digest: str) -> IndexManifest:
    found = sealed.read(folder / MANIFEST, IndexManifest, FORMAT, "snapshot")
    problems = sealed.problems(folder, found.files, sorted(_files(found)))
    problems += [f"{name} was added" for name in sealed.unlisted_files(folder, {MANIFEST, *_files(found)})]
    if found.digest != digest:
        problems.append(f"{MANIFEST} is that of another snapshot")
    if problems:
        raise UnsafeError(
            f"{folder} is not the snapshot that was written: {'; '.join(problems)}: put a copy of {folder.parent} "
            "back, or move it away and send the changes again"
        )
    return found
