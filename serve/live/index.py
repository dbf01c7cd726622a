"""A live index as a server or a command holds it: searched at one moment, changed by one process, compacted."""

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

# A reader may find that the snapshot it was about to open was replaced and swept meanwhile.
_TRIES = 3

_BLOCK = 4096


class CompactionStep(StrEnum):
    """Where a compaction is, at each point where it may be killed."""

    BEGUN = "begun"
    WRITTEN = "written"  # under its own name, whole and on the disk
    OPENED = "opened"
    SWAPPED = "swapped"  # it is the one that counts
    SWEPT = "swept"


@dataclass(frozen=True, slots=True)
class LiveReadView:
    """What an IndexFolder has, too: all of it of one version."""

    index: Index
    documents: DocumentStore
    words: KeywordIndex
    firsts: NDArray[np.uint32] | None


@dataclass(slots=True)
class _PooledReader:
    """A connection with what reads through it; one thread's at a time."""

    connection: sqlite3.Connection
    documents: DocumentStore
    words: KeywordIndex
    still: FileStamp | None

    @classmethod
    def open(cls, path: Path, writable: bool) -> Self:
        connection, still = database.opened(path, writable)
        return cls(connection, DocumentStore(connection), KeywordIndex(connection, 0), still)

    def end(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


class _WriteHandle(NamedTuple):
    """What writes: one connection, and the lock that keeps other processes from it."""

    connection: sqlite3.Connection
    lock: WriterLock

    @classmethod
    def take(cls, folder: Path) -> Self:
        lock = WriterLock.take(folder)
        try:
            return cls(database.connect(folder / DOCUMENTS, writable=True), lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        self.connection.close()
        self.lock.close()


class MutableIndex:
    """Thread-safe. `manifest` is that of the index itself: what it is bound to does not change with its documents."""

    def __init__(self, index: Path, bundle: Bundle, pen: _WriteHandle | None) -> None:
        self.path = index
        self.folder = changes_folder(index)
        self.manifest = manifest.read(index)
        self._bundle = bundle
        self._database = self.folder / DOCUMENTS
        self._readers: list[_PooledReader] = []
        self._view: LiveView | None = None
        self._growing = FreshBuffer(self.manifest.dimension)
        self._prepared: IndexSnapshot | None = None
        self._viewing, self._writing, self._compacting = ThreadLock(), ThreadLock(), ThreadLock()
        self._pen = pen
        self._holders = 1
        try:
            self.view()  # what cannot be read is known now
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, index: Path, bundle: Bundle, writable: bool) -> Self:
        """The changes beside an index, made if there are none and it is to be written.

        Files are hashed before FAISS reads a byte of them. Raises UsageError, UnsafeError, MismatchError as
        IndexFolder.open does, and UsageError where another process writes.
        """
        found = manifest.read(index)
        manifest.require_match(index, found, bundle)
        folder = changes_folder(index)
        if writable and not database.holds(folder):
            manifest.verify(index, found)
            database.make(folder, index, found)
        database.require_valid(folder, index, found)
        with database.readable(folder / DOCUMENTS):
            opened = cls(index, bundle, _WriteHandle.take(folder) if writable else None)
        if writable:
            snapshot.sweep(folder, opened.view().snapshot.name)
        return opened

    @property
    def writable(self) -> bool:
        return self._pen is not None

    @contextmanager
    def moment(self) -> Iterator[LiveReadView]:
        """Everything as it was committed last, until the block ends, whatever is written meanwhile.

        Its `index` stays as it is after that, too.
        """
        reader, view = self._begin()
        try:
            yield LiveReadView(view, reader.documents, reader.words, view.firsts)
        finally:
            self._give_back(reader)

    def view(self) -> LiveView:
        with self.moment() as now:
            assert isinstance(now.index, LiveView), "a moment of a live index has a view"
            return now.index

    @property
    def size(self) -> IndexSize:
        view = self.view()
        fresh = view.fresh.numbers[view.fresh.current]
        put = len(fresh) if view.firsts is None else len(np.unique(view.firsts[fresh]))
        rows = view.snapshot.size - view.dead + len(fresh)
        return IndexSize(view.documents, rows, put, len(fresh), view.dead, view.fresh.vectors.nbytes)

    def write(self, wanted: Sequence[Change]) -> ChangeCounts:
        """Put and delete, in this order; when this returns, it is on the disk and every search sees it.

        All of it or nothing. Raises NotWritten if the disk refuses.
        """
        with self._transaction() as connection:
            return changes.apply(connection, database.state(connection), wanted)

    def changed_documents(self, wanted: Sequence[Document]) -> list[Document]:
        """Those that are not there already, word for word: the others need neither the model nor the disk."""
        with self.moment() as now:
            known = now.documents.full_texts([document.id for document in wanted])
        return [each for each in wanted if each.id not in known or not store.same_content(known[each.id], each)]

    def compact(self, step: Callable[[CompactionStep], object] = lambda _: None) -> bool:
        """Write the next snapshot and let it count; False where no document is left to make one of.

        Searches and writes go on meanwhile. Raises EmbedshipError if the disk refuses, and all is as before.
        """
        with self._compacting:
            view = self.view()
            numbers, blocks = _vectors(view)
            if not len(numbers):
                return False
            step(CompactionStep.BEGUN)
            name = snapshot.name_after(view.snapshot.name)
            snapshot.sweep(self.folder, view.snapshot.name)
            with write_folder_atomically(self.folder / name, _ours) as folder:
                found = snapshot.write(folder, blocks, len(numbers), view.documents, view.snapshot.manifest)
            step(CompactionStep.WRITTEN)
            made = IndexSnapshot.open(self.folder / name, found.digest, numbers, self._bundle)
            step(CompactionStep.OPENED)
            self._swap(made, view.version)
            step(CompactionStep.SWAPPED)
            self.view()
            del view
            snapshot.sweep(self.folder, name)
            step(CompactionStep.SWEPT)
            return True

    def serves(self, index: Path, bundle: Bundle) -> bool:
        """Whether it holds the changes of this index, as it lies there now, with vectors of this model."""
        same = changes_folder(index) == self.folder and bundle.fingerprint == self._bundle.fingerprint
        return same and manifest.read(index).digest == self.manifest.digest

    def share(self) -> Self:
        """For one more holder; the last that closes it closes it."""
        self._holders += 1
        return self

    def close(self) -> None:
        self._holders -= 1
        if self._holders:
            return
        for reader in self._readers:
            reader.connection.close()
        if self._pen:
            self._pen.close()
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
        if reader.still is None or reader.still == FileStamp.of(self._database):
            return reader
        reader.connection.close()
        return _PooledReader.open(self._database, self.writable)

    def _give_back(self, reader: _PooledReader) -> None:
        reader.end()
        self._readers.append(reader)

    def _begin(self) -> tuple[_PooledReader, LiveView]:
        """A reader in a transaction, and the view of its version, which the first to ask makes."""
        failed = 0
        while True:
            reader = self._borrow()
            try:
                view = self._seen_by(reader)
            except BaseException as error:
                reader.connection.close()
                failed += 1
                if failed == _TRIES or not isinstance(error, FileNotFoundError | EmbedshipError):
                    raise
                continue
            if view is not None:
                return reader, view
            self._give_back(reader)

    def _seen_by(self, reader: _PooledReader) -> LiveView | None:
        """None where another reader has seen a later version meanwhile: that one, then."""
        known = self._view
        reader.connection.execute("BEGIN")
        found = database.state(reader.connection)
        if known is not None and found.version < known.version:
            raise EmbedshipError(f"{self._database} is older than it was: if a copy took its place, start again")
        view = self._at(reader.connection, found)
        if view.version != found.version:
            return None
        reader.words.renew(found.version, found.next)
        return view

    def _at(self, connection: sqlite3.Connection, found: LiveState) -> LiveView:
        view = self._view
        if view is None or view.version < found.version:
            with self._viewing:
                if self._view is None or self._view.version < found.version:
                    self._view = self._advanced(self._view, connection, found)
                view = self._view
        return view

    def _advanced(self, view: LiveView | None, connection: sqlite3.Connection, found: LiveState) -> LiveView:
        """The view of the version that a transaction sees, from the one before or from nothing."""
        if view is None or not view.snapshot.counts(found):
            current = self._snapshot(connection, found)
            growing, since = FreshBuffer(self.manifest.dimension), -1
            alive = np.ones(current.size, dtype=np.bool_)
        else:
            current, growing, since, alive = view.snapshot, self._growing, view.version, view.alive.copy()
        numbers, vectors = self._put(connection, since)
        gone = _column(connection.execute("SELECT row FROM gone WHERE version > ?", [since]).fetchall())
        alive[current.places(np.concatenate([numbers, gone]))] = False
        fresh: FreshRows = growing.change(numbers, vectors, gone)
        self._growing = growing
        dead = len(alive) - int(np.count_nonzero(alive))
        firsts = self._firsts(view, connection, found.next)
        return LiveView(found.version, found.next, found.size, firsts, current, alive, dead, fresh)

    def _firsts(self, view: LiveView | None, connection: sqlite3.Connection, stop: int) -> NDArray[np.uint32] | None:
        """Of the view before, and of the rows that came since: a row keeps its document as long as it is there."""
        if self.manifest.chunking is None:
            return None
        known = np.empty(0, dtype=np.uint32) if view is None or view.firsts is None else view.firsts
        if len(known) == stop:
            return known
        return np.concatenate([known, store.first_rows(connection, len(known), stop)])

    def _put(self, connection: sqlite3.Connection, since: int) -> tuple[NDArray[np.int64], Vectors]:
        rows = connection.execute("SELECT row, vector FROM fresh WHERE version > ? ORDER BY row", [since]).fetchall()
        packed = np.frombuffer(b"".join(vector for _, vector in rows), dtype="<f2")
        return _column(rows), packed.reshape(len(rows), self.manifest.dimension).astype(np.float32)

    def _snapshot(self, connection: sqlite3.Connection, found: LiveState) -> IndexSnapshot:
        if self._prepared and self._prepared.counts(found):
            return self._prepared
        if not found.snapshot:
            return IndexSnapshot.origin(self.path, self._bundle)
        snapshot.demand_name(found.snapshot, self._database)
        (packed,) = connection.execute("SELECT numbers FROM numbers").fetchone()
        numbers = np.frombuffer(packed, dtype="<u4").astype(np.int64)
        return IndexSnapshot.open(self.folder / found.snapshot, found.digest, numbers, self._bundle)

    def _swap(self, made: IndexSnapshot, version: int) -> None:
        """What the new snapshot holds is fresh no more; what came after the version it was made of, still is."""
        self._prepared = made  # before it counts: whoever then reads first need not open it
        try:
            with self._transaction() as connection:
                execute = connection.execute
                execute("UPDATE state SET version = version + 1, snapshot = ?, digest = ?",
                        (made.name, made.manifest.digest))  # fmt: skip
                execute("UPDATE numbers SET numbers = ?", [made.numbers.astype("<u4").tobytes()])
                execute("DELETE FROM fresh WHERE version <= ?", [version])
                execute("DELETE FROM gone WHERE version <= ?", [version])
        except BaseException:
            self._prepared = None
            raise

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._pen is not None, "who writes has opened it for that"
        with self._writing:
            self._pen.lock.require()
            with database.transaction(self._pen.connection, self.folder):
                yield self._pen.connection


def _vectors(view: LiveView) -> tuple[NDArray[np.int64], Iterator[Vectors]]:
    """The numbers of all rows of a view, rising, and their vectors in that order."""
    old, new = np.flatnonzero(view.alive), np.flatnonzero(view.fresh.current)
    numbers = np.concatenate([view.snapshot.numbers[old], view.fresh.numbers[new]])
    order = np.argsort(numbers)

    def blocks() -> Iterator[Vectors]:
        for start in range(0, len(order), _BLOCK):
            some = order[start : start + _BLOCK]
            kept = some < len(old)
            block = np.empty((len(some), view.snapshot.manifest.dimension), dtype=np.float32)
            block[kept] = view.snapshot.truth.rows(old[some[kept]])
            block[~kept] = view.fresh.vectors[new[some[~kept] - len(old)]]
            yield block

    return numbers[order], blocks()


def _column(rows: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))


def _ours(folder: Path) -> None:
    """A snapshot that never came to count, from a process that was killed: it may be replaced."""
