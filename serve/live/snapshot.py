"""The immutable part of a mutable index: the index as built, or a snapshot that a compaction wrote."""

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

Numbers = NDArray[np.int64]  # (size,) ascending: the number of each row in the database

_PREFIX = "gen-"


class IndexSnapshot:
    """An opened snapshot. Thread-safe. A shared lock prevents its removal by any process while it is open.

    It is closed when the last view of it is garbage-collected.
    """

    def __init__(self, folder: Path, stored: IndexManifest, numbers: Numbers) -> None:
        self.name = folder.name
        self.manifest = stored
        self.numbers = numbers
        self.index: Index = load(folder, stored)
        self.truth = ExactVectors.open(folder, (stored.size, stored.dimension))

    @classmethod
    def origin(cls, index: Path, bundle: Bundle) -> Self:
        """Open the index as it was built, after hashing it. Row numbers are positions. Raises like IndexFolder.open."""
        stored = manifest.read(index)
        manifest.require_match(index, stored, bundle)
        manifest.verify(index, stored)
        opened = cls(index, stored, np.arange(stored.size))
        opened.name = ""
        return opened

    @classmethod
    def open(cls, folder: Path, digest: str, numbers: Numbers, bundle: Bundle) -> Self:
        """Open a snapshot of a compaction, after hashing it. Raises FileNotFoundError if another process removed it."""
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            stored = _verify(folder, digest)
            manifest.require_match(folder, stored, bundle)
            opened = cls(folder, stored, numbers)
        except BaseException:
            os.close(lock)
            raise
        weakref.finalize(opened, os.close, lock)
        return opened

    @property
    def size(self) -> int:
        return self.manifest.size

    def is_current(self, state: LiveState) -> bool:
        """Return whether `state` names this snapshot.

        Its name is also compared, because two snapshots of the same documents may have the same digest.
        """
        return (self.name, self.manifest.digest) == (state.snapshot, state.digest)

    def rows_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of these row numbers. Numbers that are not in the snapshot are skipped."""
        rows = np.searchsorted(self.numbers, numbers)
        present = rows < self.size
        present[present] = self.numbers[rows[present]] == numbers[present]
        return rows[present]


def write(folder: Path, blocks: Iterable[Vectors], size: int, documents: int, before: IndexManifest) -> IndexManifest:
    """Write a snapshot of (size, dim) unit vectors of `documents` documents, and its manifest with file hashes.

    Its recipe and effort are those of the previous snapshot. It has no documents: these are only in the database.
    """
    from embedship.serve.index import faiss_library, kinds

    faiss_library.on_this_thread()  # leave the other cores to searches
    truth = ExactVectors.write(folder, blocks, (size, before.dimension))
    kinds.write(folder, truth, before.recipe, before.packing, before.effort)
    files = {name: SealedFile.from_path(folder / name) for name in sorted(_files(before))}
    described = msgspec.structs.replace(
        before, size=size, documents=documents, created=sealed.creation_time(), files=files
    )
    return sealed.write(folder / MANIFEST, described)


def name_after(name: str) -> str:
    """Return the name of the next snapshot.

    >>> name_after(""), name_after("gen-000041")
    ('gen-000001', 'gen-000042')
    """
    return f"{_PREFIX}{int(name.removeprefix(_PREFIX) or 0) + 1:06}"


def demand_name(name: str, database: Path) -> None:
    """Raise UnsafeError unless `name` has the form that `name_after` returns: the database may come from elsewhere."""
    if not re.fullmatch(rf"{_PREFIX}[0-9]{{6,}}", name):
        raise UnsafeError(
            f"{database} names the snapshot {name!r}, which is not a valid name: restore a copy of {database.parent}"
        )


def sweep(folder: Path, keep: str) -> None:
    """Remove snapshots other than `keep`, unless a process has them open. The caller must have the write lock."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path.name != keep:
            _remove_unless_open(path)


def _remove_unless_open(path: Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # not a folder, so not a snapshot
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # a reader has it open; a later sweep removes it
    finally:
        os.close(lock)


def _files(stored: IndexManifest) -> frozenset[str]:
    return manifest.files(stored.recipe) - {DOCUMENTS}


def _verify(folder: Path, digest: str) -> IndexManifest:
    stored = sealed.read(folder / MANIFEST, IndexManifest, FORMAT, "snapshot")
    problems = sealed.problems(folder, stored.files, sorted(_files(stored)))
    problems += [f"{name} was added" for name in sealed.unlisted_files(folder, {MANIFEST, *_files(stored)})]
    if stored.digest != digest:
        problems.append(f"{MANIFEST} is that of another snapshot")
    if problems:
        raise UnsafeError(
            f"{folder} is not the snapshot that was written: {'; '.join(problems)}: restore a copy of "
            f"{folder.parent}, or move it away and send the changes again"
        )
    return stored
