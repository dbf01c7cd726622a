"""MutableIndex: an index that can be searched at one version, changed by one process, and compacted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock as ThreadLock
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.errors import EmbedshipError
from embedship.files.atomic_folder import write_folder_atomically
from embedship.serve.documents import store
from embedship.serve.documents.changes import Change, ChangeCounts
from embedship.serve.documents.fulltext import KeywordIndex
from embedship.serve.documents.store import DOCUMENTS, Document, DocumentStore
from embedship.serve.index import Index, IndexSize, manifest
from embedship.serve.live import changes, changes_folder, database, snapshot
from embedship.serve.live.database import FileStamp, LiveState
from embedship.serve.live.lock import WriterLock
from embedship.serve.live.snapshot import IndexSnapshot
from embedship.serve.live.view import FreshBuffer, FreshRows, LiveView

# Attempts to open a view: the snapshot to open may have been replaced and removed in the meantime.
_TRIES = 3

_BLOCK = 4096


class CompactionStep(StrEnum):
    """Steps of a compaction. Tests kill the process at each of them."""

    BEGUN = "begun"
    WRITTEN = "written"  # the snapshot is complete on disk, under its own name
    OPENED = "opened"
    SWAPPED = "swapped"  # it is the current snapshot
    SWEPT = "swept"  # old snapshots are removed


@dataclass(frozen=True, slots=True)
class LiveReadView:
    """Index, documents and words at one version, with the attributes of an IndexFolder."""

    index: Index
    documents: DocumentStore
    words: KeywordIndex
    firsts: NDArray[np.uint32] | None


@dataclass(slots=True)
class _PooledReader:
    """A database connection and the objects that read through it. Used by one thread at a time."""

    connection: sqlite3.Connection
    documents: DocumentStore
    words: KeywordIndex
    stamp: FileStamp | None

    @classmethod
    def open(cls, path: Path, writable: bool) -> Self:
        connection, stamp = database.open_database(path, writable)
        return cls(connection, DocumentStore(connection), KeywordIndex(connection, 0), stamp)

    def end(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


class _WriteHandle(NamedTuple):
    """The connection that writes, and the lock that keeps other processes from writing."""

    connection: sqlite3.Connection
    lock: WriterLock

    @classmethod
    def open(cls, folder: Path) -> Self:
        lock = WriterLock.acquire(folder)
        try:
            return cls(database.connect(folder / DOCUMENTS, writable=True), lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        self.connection.close()
        self.lock.close()


class MutableIndex:
    """An index that can be changed while it is searched. Thread-safe.

    `manifest` is the manifest of the original build: model, prompts and recipe do not change later.
    """

    def __init__(self, index: Path, bundle: Bundle, writer: _WriteHandle | None) -> None:
        self.path = index
        self.folder = changes_folder(index)
        self.manifest = manifest.read(index)
        self._bundle = bundle
        self._database = self.folder / DOCUMENTS
        self._readers: list[_PooledReader] = []
        self._view: LiveView | None = None
        self._fresh_buffer = FreshBuffer(self.manifest.dimension)
        self._prepared: IndexSnapshot | None = None
        self._viewing, self._writing, self._compacting = ThreadLock(), ThreadLock(), ThreadLock()
        self._writer = writer
        self._holders = 1
        try:
            self.view()  # report unreadable files now
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, index: Path, bundle: Bundle, writable: bool) -> Self:
        """Open the index with the changes next to it. If there are none and `writable`, create INDEX.live.

        Files are hashed before FAISS reads a byte of them. Raises UsageError, UnsafeError, MismatchError as
        IndexFolder.open does, and UsageError if another process writes to the index.
        """
        stored = manifest.read(index)
        manifest.require_match(index, stored, bundle)
        folder = changes_folder(index)
        if writable and not database.exists(folder):
            manifest.verify(index, stored)
            database.make(folder, index, stored)
        database.require_valid(folder, index, stored)
        with database.readable(folder / DOCUMENTS):
            opened = cls(index, bundle, _WriteHandle.open(folder) if writable else None)
        if writable:
            snapshot.sweep(folder, opened.view().snapshot.name)
        return opened

    @property
    def writable(self) -> bool:
        return self._writer is not None

    @contextmanager
    def read_view(self) -> Iterator[LiveReadView]:
        """Yield the last committed version. Writes during the block do not change it.

        Its `index` stays valid and unchanged after the block.
        """
        reader, view = self._begin()
        try:
            yield LiveReadView(view, reader.documents, reader.words, view.firsts)
        finally:
            self._give_back(reader)

    def view(self) -> LiveView:
        """Return the view of the last committed version."""
        with self.read_view() as current:
            assert isinstance(current.index, LiveView), "a read view of a MutableIndex has a LiveView"
            return current.index

    @property
    def size(self) -> IndexSize:
        view = self.view()
        fresh = view.fresh.numbers[view.fresh.current]
        fresh_documents = len(fresh) if view.firsts is None else len(np.unique(view.firsts[fresh]))
        rows = view.snapshot.size - view.dead + len(fresh)
        return IndexSize(view.documents, rows, fresh_documents, len(fresh), view.dead, view.fresh.vectors.nbytes)

    def write(self, requested: Sequence[Change]) -> ChangeCounts:
        """Put and delete documents in this order. On return the changes are on disk, and every new search sees them.

        All changes are written, or none. Raises WriteRefused if the disk rejects the write.
        """
        with self._transaction() as connection:
            return changes.apply(connection, database.state(connection), requested)

    def changed_documents(self, requested: Sequence[Document]) -> list[Document]:
        """Return the documents that are not stored yet with this content. Only these are embedded and written."""
        with self.read_view() as current:
            stored = current.documents.full_texts([document.id for document in requested])
        return [each for each in requested if each.id not in stored or not store.same_content(stored[each.id], each)]

    def compact(self, step: Callable[[CompactionStep], object] = lambda _: None) -> bool:
        """Write the next snapshot and make it the current one. Return False if there are no documents left to write.

        Searches and writes continue meanwhile. Raises EmbedshipError if the disk rejects it; then nothing has changed.
        """
        with self._compacting:
            view = self.view()
            numbers, blocks = _vectors(view)
            if not len(numbers):
                return False
            step(CompactionStep.BEGUN)
            name = snapshot.name_after(view.snapshot.name)
            snapshot.sweep(self.folder, view.snapshot.name)
            with write_folder_atomically(self.folder / name, _replaceable) as folder:
                written = snapshot.write(folder, blocks, len(numbers), view.documents, view.snapshot.manifest)
            step(CompactionStep.WRITTEN)
            compacted = IndexSnapshot.open(self.folder / name, written.digest, numbers, self._bundle)
            step(CompactionStep.OPENED)
            self._swap(compacted, view.version)
            step(CompactionStep.SWAPPED)
            self.view()
            del view
            snapshot.sweep(self.folder, name)
            step(CompactionStep.SWEPT)
            return True

    def serves(self, index: Path, bundle: Bundle) -> bool:
        """Return whether this object belongs to the index that is now at this path, and to this model."""
        same = changes_folder(index) == self.folder and bundle.fingerprint == self._bundle.fingerprint
        return same and manifest.read(index).digest == self.manifest.digest

    def share(self) -> Self:
        """Add one more user of this object. It is closed when the last user calls `close`."""
        self._holders += 1
        return self

    def close(self) -> None:
        self._holders -= 1
        if self._holders:
            return
        for reader in self._readers:
            reader.connection.close()
        if self._writer:
            self._writer.close()
        self._view = self._prepared = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _borrow(self) -> _PooledReader:
        try:
            reader = self._readers.pop()
        except IndexError:
            return _PooledReader.open(self._database, self.writable)
        if reader.stamp is None or reader.stamp == FileStamp.from_path(self._database):
            return reader
        reader.connection.close()
        return _PooledReader.open(self._database, self.writable)

    def _give_back(self, reader: _PooledReader) -> None:
        reader.end()
        self._readers.append(reader)

    def _begin(self) -> tuple[_PooledReader, LiveView]:
        """Return a reader in a transaction, and the view of its version. The first reader of a version creates it."""
        failed = 0
        while True:
            reader = self._borrow()
            try:
                view = self._view_of(reader)
            except BaseException as error:
                reader.connection.close()
                failed += 1
                if failed == _TRIES or not isinstance(error, FileNotFoundError | EmbedshipError):
                    raise
                continue
            if view is not None:
                return reader, view
            self._give_back(reader)

    def _view_of(self, reader: _PooledReader) -> LiveView | None:
        """Return the view of the reader's version; None if another reader has already created a later one."""
        known = self._view
        reader.connection.execute("BEGIN")
        state = database.state(reader.connection)
        if known is not None and state.version < known.version:
            raise EmbedshipError(
                f"{self._database} is older than before: if it was replaced by a copy, restart this process"
            )
        view = self._view_at(reader.connection, state)
        if view.version != state.version:
            return None
        reader.words.renew(state.version, state.next)
        return view

    def _view_at(self, connection: sqlite3.Connection, state: LiveState) -> LiveView:
        view = self._view
        if view is None or view.version < state.version:
            with self._viewing:
                if self._view is None or self._view.version < state.version:
                    self._view = self._advance_view(self._view, connection, state)
                view = self._view
        return view

    def _advance_view(self, view: LiveView | None, connection: sqlite3.Connection, state: LiveState) -> LiveView:
        """Return the view of the version that a transaction reads, made from the previous view if possible."""
        if view is None or not view.snapshot.is_current(state):
            current = self._snapshot(connection, state)
            buffer, since = FreshBuffer(self.manifest.dimension), -1
            alive = np.ones(current.size, dtype=np.bool_)
        else:
            current, buffer, since, alive = view.snapshot, self._fresh_buffer, view.version, view.alive.copy()
        numbers, vectors = self._fresh_rows(connection, since)
        deleted = _column(connection.execute("SELECT row FROM gone WHERE version > ?", [since]).fetchall())
        alive[current.rows_of(np.concatenate([numbers, deleted]))] = False
        fresh: FreshRows = buffer.apply(numbers, vectors, deleted)
        self._fresh_buffer = buffer
        dead = len(alive) - int(np.count_nonzero(alive))
        firsts = self._firsts(view, connection, state.next)
        return LiveView(state.version, state.next, state.size, firsts, current, alive, dead, fresh)

    def _firsts(self, view: LiveView | None, connection: sqlite3.Connection, stop: int) -> NDArray[np.uint32] | None:
        """Return the first row of each row's document: those of the previous view, and those of new rows.

        This works because a row belongs to the same document as long as it exists.
        """
        if self.manifest.chunking is None:
            return None
        known = np.empty(0, dtype=np.uint32) if view is None or view.firsts is None else view.firsts
        if len(known) == stop:
            return known
        return np.concatenate([known, store.first_rows(connection, len(known), stop)])

    def _fresh_rows(self, connection: sqlite3.Connection, since: int) -> tuple[NDArray[np.int64], Vectors]:
        rows = connection.execute("SELECT row, vector FROM fresh WHERE version > ? ORDER BY row", [since]).fetchall()
        packed = np.frombuffer(b"".join(vector for _, vector in rows), dtype="<f2")
        return _column(rows), packed.reshape(len(rows), self.manifest.dimension).astype(np.float32)

    def _snapshot(self, connection: sqlite3.Connection, state: LiveState) -> IndexSnapshot:
        if self._prepared and self._prepared.is_current(state):
            return self._prepared
        if not state.snapshot:
            return IndexSnapshot.origin(self.path, self._bundle)
        snapshot.demand_name(state.snapshot, self._database)
        (packed,) = connection.execute("SELECT numbers FROM numbers").fetchone()
        numbers = np.frombuffer(packed, dtype="<u4").astype(np.int64)
        return IndexSnapshot.open(self.folder / state.snapshot, state.digest, numbers, self._bundle)

    def _swap(self, snapshot: IndexSnapshot, version: int) -> None:
        """Make a new snapshot the current one. It contains all changes up to `version`; only later ones stay stored."""
        self._prepared = snapshot  # set before the transaction, so that the next reader need not open it again
        try:
            with self._transaction() as connection:
                execute = connection.execute
                execute("UPDATE state SET version = version + 1, snapshot = ?, digest = ?",
                        (snapshot.name, snapshot.manifest.digest))  # fmt: skip
                execute("UPDATE numbers SET numbers = ?", [snapshot.numbers.astype("<u4").tobytes()])
                execute("DELETE FROM fresh WHERE version <= ?", [version])
                execute("DELETE FROM gone WHERE version <= ?", [version])
        except BaseException:
            self._prepared = None
            raise

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._writer is not None, "the index must be open for writing"
        with self._writing:
            self._writer.lock.require()
            with database.transaction(self._writer.connection, self.folder):
                yield self._writer.connection


def _vectors(view: LiveView) -> tuple[NDArray[np.int64], Iterator[Vectors]]:
    """Return the numbers of all rows of a view, ascending, and their vectors in that order."""
    old, new = np.flatnonzero(view.alive), np.flatnonzero(view.fresh.current)
    numbers = np.concatenate([view.snapshot.numbers[old], view.fresh.numbers[new]])
    order = np.argsort(numbers)

    def blocks() -> Iterator[Vectors]:
        for start in range(0, len(order), _BLOCK):
            part = order[start : start + _BLOCK]
            old_rows = part < len(old)
            block = np.empty((len(part), view.snapshot.manifest.dimension), dtype=np.float32)
            block[old_rows] = view.snapshot.truth.rows(old[part[old_rows]])
            block[~old_rows] = view.fresh.vectors[new[part[~old_rows] - len(old)]]
            yield block

    return numbers[order], blocks()


def _column(rows: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))


def _replaceable(folder: Path) -> None:
    """Allow the replacement: an existing folder is a snapshot of a killed process, and never became current."""
