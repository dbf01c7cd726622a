"""INDEX.live/documents.sqlite: created once from the index, and then changed only by transactions."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from embedship.errors import EmbedshipError, MismatchError, UnsafeError, UsageError
from embedship.files.atomic_folder import write_folder_atomically
from embedship.serve import interruption
from embedship.serve.documents.store import DOCUMENTS, SCHEMA, demand_schema, disk_refuses, treat_as_untrusted
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.search.backend import WriteRefused

FORMAT = 1
LOCK = "lock"

_SCHEMA = (
    "CREATE TABLE about (format INTEGER NOT NULL, fingerprint TEXT NOT NULL, origin TEXT NOT NULL)",
    # One row, read at the start of every search. `next` is the number of the next new row; no number is used twice.
    """CREATE TABLE state (version INTEGER NOT NULL, next INTEGER NOT NULL, size INTEGER NOT NULL,
        snapshot TEXT NOT NULL, digest TEXT NOT NULL)""",
    # The number of each row of the snapshot, uint32. Empty if each row's number is its position.
    "CREATE TABLE numbers (numbers BLOB NOT NULL)",
    # Vectors that are not in the snapshot (float16, little-endian), and its deleted rows, each with its version.
    "CREATE TABLE fresh (row INTEGER PRIMARY KEY, version INTEGER NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX fresh_since ON fresh (version)",
    "CREATE TABLE gone (row INTEGER PRIMARY KEY, version INTEGER NOT NULL)",
    "CREATE INDEX gone_since ON gone (version)",
    "INSERT INTO numbers VALUES (x'')",
)
_CHANGED = """SELECT snapshot != '' OR EXISTS (SELECT 1 FROM fresh) OR EXISTS (SELECT 1 FROM gone) FROM state"""
_STATE = "SELECT version, next, size, snapshot, digest FROM state"

# How long a reader waits while another process recovers or checkpoints the file.
_BUSY_SECONDS = 30.0
_FULL_BELOW = 1 << 20  # bytes: a disk with less free space counts as full, even if SQLite reports another error


class LiveState(NamedTuple):
    """The state row of the database."""

    version: int  # increases with every transaction
    next: int  # all row numbers are below this
    size: int  # documents
    snapshot: str  # folder name of the snapshot; empty for the index itself
    digest: str  # digest of the snapshot's manifest


def make(folder: Path, index: Path, stored: IndexManifest) -> None:
    """Create INDEX.live, completely or not at all, for an index whose files have been hashed."""
    with write_folder_atomically(folder, _refuse) as new:
        shutil.copyfile(index / DOCUMENTS, new / DOCUMENTS)
        (new / LOCK).touch()
        with closing(sqlite3.connect(new / DOCUMENTS, isolation_level=None)) as connection:
            treat_as_untrusted(connection)
            demand_schema(connection, index / DOCUMENTS, SCHEMA)
            connection.execute("BEGIN")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO about VALUES (?, ?, ?)", (FORMAT, stored.fingerprint, stored.digest))
            connection.execute(
                "INSERT INTO state VALUES (0, ?, ?, '', ?)", (stored.size, stored.documents, stored.digest)
            )
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")


def _refuse(folder: Path) -> None:
    raise UsageError(f"{folder} exists but has no {DOCUMENTS}: move it away")


def require_valid(folder: Path, index: Path, stored: IndexManifest) -> None:
    """Check that the file is not damaged, has this format, and has the changes of this index.

    Raises UnsafeError for a damaged file, UsageError for another format, MismatchError for another index or model.
    """
    path = folder / DOCUMENTS
    with readable(path), closing(connect(path, writable=False)) as connection:
        (wrong,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if wrong != "ok":
            raise UnsafeError(f"{path} is damaged: {wrong}: {_CURE}")
        format, fingerprint, origin = connection.execute("SELECT * FROM about").fetchone()
    if format != FORMAT:
        raise UsageError(f"{path} has format {format!r}; this embedship reads format {FORMAT}: {_CURE}")
    if fingerprint != stored.fingerprint:
        raise MismatchError(
            f"{folder} has changes embedded with model {fingerprint[:12]}, but {index} has model "
            f"{stored.fingerprint[:12]}: their vectors cannot be compared. Use the bundle and the index that the "
            "changes were made with."
        )
    if origin != stored.digest:
        raise MismatchError(
            f"{folder} has changes to another build of {index}: put that build back, or move {folder} away if the new "
            "index already includes the changes."
        )


_CURE = "restore a copy of the whole folder, or move it away and send the changes again"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn SQLite errors about a file that cannot be read into errors that say the cause and the remedy."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
            raise UsageError(
                f"{path} cannot be opened ({error}): its folder must be writable once after a crash, so that SQLite "
                "can recover the acknowledged changes"
            ) from None
        raise EmbedshipError(f"{path} cannot be read: {error}") from None
    except sqlite3.DatabaseError as error:
        raise UnsafeError(f"{path} is damaged: {error}: {_CURE}") from None


class FileStamp(NamedTuple):
    """Identity of a database file and its -wal file: inode, size in bytes and modification time of each."""

    file: tuple[int, ...] | None
    wal: tuple[int, ...] | None

    @classmethod
    def from_path(cls, path: Path) -> FileStamp:
        return cls(_stat(path), _stat(_sibling(path, "-wal")))


class OpenedDatabase(NamedTuple):
    """A connection. `stamp` is set if SQLite opened the file as immutable: once it changes, the data is stale."""

    connection: sqlite3.Connection
    stamp: FileStamp | None


def connect(path: Path, writable: bool) -> sqlite3.Connection:
    """Return a connection for one thread at a time, outside any transaction. A writer syncs to disk at each commit."""
    return open_database(path, writable).connection


def open_database(path: Path, writable: bool) -> OpenedDatabase:
    """Like `connect`, with the stamp that a caller needs to keep the connection open."""
    # The stamp is taken before opening, so that a change in between is noticed.
    stamp = None if writable else FileStamp.from_path(path)
    if stamp and _recoverable(path, stamp):
        stamp = None
    uri = f"{path.resolve().as_uri()}?mode={'rw' if writable else 'ro'}"
    if stamp:
        uri += "&immutable=1"
    connection = sqlite3.connect(
        uri, uri=True, check_same_thread=False, isolation_level=None, timeout=_BUSY_SECONDS, cached_statements=256
    )
    try:
        treat_as_untrusted(connection)
        demand_schema(connection, path, (*SCHEMA, *_SCHEMA))
        connection.execute("PRAGMA synchronous = FULL")
        if not writable:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return OpenedDatabase(interruption.interruptible(connection), stamp)


def _recoverable(path: Path, stamp: FileStamp) -> bool:
    """Return whether SQLite can open the file as mutable. On a read-only disk it cannot create -wal and -shm files.

    A file that was closed properly has neither, and is complete without them. If both exist, another process may be
    writing, perhaps through another mount, even if nothing has been written yet.
    """
    try:
        with path.open("r+b"):
            return True
    except OSError:
        return stamp.wal is not None and (stamp.wal[1] > 0 or _stat(_sibling(path, "-shm")) is not None)


def _sibling(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def state(connection: sqlite3.Connection) -> LiveState:
    """Return the state that the connection's transaction reads."""
    return LiveState(*connection.execute(_STATE).fetchone())


def has_changes(connection: sqlite3.Connection) -> bool:
    """Return whether it may have other documents than the index that it was created from."""
    (result,) = connection.execute(_CHANGED).fetchone()
    return bool(result)


@contextmanager
def transaction(connection: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """Run the block in a transaction: all of it is on disk afterwards, or nothing. Raises WriteRefused."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:  # SQLite rolls back by itself after some errors
                connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if not disk_refuses(error):
            raise
        raise _not_written(error, folder) from error


def _not_written(error: sqlite3.OperationalError, folder: Path) -> WriteRefused:
    full = error.sqlite_errorcode == sqlite3.SQLITE_FULL or _free(folder) < _FULL_BELOW
    if full:
        return WriteRefused(
            f"nothing was written because the disk of {folder.name} is full: free some space and send it again", True
        )
    cure = "check the disk and send it again"
    return WriteRefused(f"nothing was written because {folder.name} cannot be written ({error}): {cure}", False)


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return _FULL_BELOW


def exists(folder: Path) -> bool:
    """Return whether `folder`, INDEX.live, has a database of changes."""
    return (folder / DOCUMENTS).exists()
