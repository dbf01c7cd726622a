"""INDEX.live/documents.sqlite: made once from the index, then changed by transactions and by nothing else."""

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
from embedship.serve.documents.store import DOCUMENTS, SCHEMA, demand_schema, disk_refuses, distrust
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.search.backend import WriteRefused

FORMAT = 1
LOCK = "lock"

_SCHEMA = (
    "CREATE TABLE about (format INTEGER NOT NULL, fingerprint TEXT NOT NULL, origin TEXT NOT NULL)",
    # One row, read at the begin of every search. `next` is the number of the next new row: none is used twice.
    """CREATE TABLE state (version INTEGER NOT NULL, next INTEGER NOT NULL, size INTEGER NOT NULL,
        snapshot TEXT NOT NULL, digest TEXT NOT NULL)""",
    # The number of each row of the snapshot, uint32; empty while row and number are the same.
    "CREATE TABLE numbers (numbers BLOB NOT NULL)",
    # What the snapshot does not hold (float16, little-endian) and what it should not: each since which version.
    "CREATE TABLE fresh (row INTEGER PRIMARY KEY, version INTEGER NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX fresh_since ON fresh (version)",
    "CREATE TABLE gone (row INTEGER PRIMARY KEY, version INTEGER NOT NULL)",
    "CREATE INDEX gone_since ON gone (version)",
    "INSERT INTO numbers VALUES (x'')",
)
_CHANGED = """SELECT snapshot != '' OR EXISTS (SELECT 1 FROM fresh) OR EXISTS (SELECT 1 FROM gone) FROM state"""
_STATE = "SELECT version, next, size, snapshot, digest FROM state"

# How long a reader waits for another process that recovers or checkpoints the file.
_BUSY_SECONDS = 30.0
_ROOM = 1 << 20  # bytes: a disk with less is full, whatever SQLite says


class LiveState(NamedTuple):
    version: int  # rises with every transaction
    next: int  # all numbers of rows lie below
    size: int  # documents
    snapshot: str  # name of the folder, empty: the index itself
    digest: str  # of the snapshot's manifest


def make(folder: Path, index: Path, found: IndexManifest) -> None:
    """Make INDEX.live of an index whose files have been hashed; whole or not at all."""
    with write_folder_atomically(folder, _refuse) as new:
        shutil.copyfile(index / DOCUMENTS, new / DOCUMENTS)
        (new / LOCK).touch()
        with closing(sqlite3.connect(new / DOCUMENTS, isolation_level=None)) as connection:
            distrust(connection)
            demand_schema(connection, index / DOCUMENTS, SCHEMA)
            connection.execute("BEGIN")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO about VALUES (?, ?, ?)", (FORMAT, found.fingerprint, found.digest))
            connection.execute("INSERT INTO state VALUES (0, ?, ?, '', ?)", (found.size, found.documents, found.digest))
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")


def _refuse(folder: Path) -> None:
    raise UsageError(f"{folder} exists and holds no {DOCUMENTS}: move it away")


def require_valid(folder: Path, index: Path, found: IndexManifest) -> None:
    """Raise unless the file is sound, of this format, and holds the changes of just this index.

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
    if fingerprint != found.fingerprint:
        raise MismatchError(
            f"{folder} holds changes embedded with model {fingerprint[:12]}, {index} is of {found.fingerprint[:12]}: "
            "their vectors cannot be compared. Take the bundle and the index that they were made with."
        )
    if origin != found.digest:
        raise MismatchError(
            f"{folder} holds changes to another build of {index}: put that one back, or move {folder} away if the new "
            "index holds the changes already."
        )


_CURE = "put a copy of the whole folder back, or move it away and send the changes again"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What SQLite says of a file that it cannot read, in a sentence."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
            raise UsageError(
                f"{path} cannot be opened ({error}): its folder must be writable once after a crash, for SQLite to "
                "recover what was acknowledged"
            ) from None
        raise EmbedshipError(f"{path} cannot be read: {error}") from None
    except sqlite3.DatabaseError as error:
        raise UnsafeError(f"{path} is damaged: {error}: {_CURE}") from None


class FileStamp(NamedTuple):
    """What a file of changes and its -wal were when it was opened as one that never changes: inode, size, time."""

    file: tuple[int, ...] | None
    wal: tuple[int, ...] | None

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        return cls(_seen(path), _seen(_beside(path, "-wal")))


class OpenedDatabase(NamedTuple):
    """`still` where SQLite was told that the file never changes: once it differs, what is read is no more true."""

    connection: sqlite3.Connection
    still: FileStamp | None


def connect(path: Path, writable: bool) -> sqlite3.Connection:
    """A connection for one thread at a time, outside any transaction; a writer's waits for the disk at each commit."""
    return opened(path, writable).connection


def opened(path: Path, writable: bool) -> OpenedDatabase:
    """As `connect`, for who keeps the connection."""
    still = None if writable else FileStamp.of(path)  # before it is opened: what happens meanwhile is seen later
    if still and _recoverable(path, still):
        still = None
    uri = f"{path.resolve().as_uri()}?mode={'rw' if writable else 'ro'}"
    if still:
        uri += "&immutable=1"
    connection = sqlite3.connect(
        uri, uri=True, check_same_thread=False, isolation_level=None, timeout=_BUSY_SECONDS, cached_statements=256
    )
    try:
        distrust(connection)
        demand_schema(connection, path, (*SCHEMA, *_SCHEMA))
        connection.execute("PRAGMA synchronous = FULL")
        if not writable:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return OpenedDatabase(interruption.interruptible(connection), still)


def _recoverable(path: Path, still: FileStamp) -> bool:
    """Whether SQLite can read it as a file that changes: on a disk for reading only it cannot make its -wal and -shm.

    A file that was closed well has neither beside it, and then is whole by itself. Where both lie there somebody may be
    writing, if only through another mount, though nothing was written yet.
    """
    try:
        with path.open("r+b"):
            return True
    except OSError:
        return still.wal is not None and (still.wal[1] > 0 or _seen(_beside(path, "-shm")) is not None)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _seen(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def state(connection: sqlite3.Connection) -> LiveState:
    return LiveState(*connection.execute(_STATE).fetchone())


def changed(connection: sqlite3.Connection) -> bool:
    """Whether it may hold other documents than the index that it was made of."""
    (found,) = connection.execute(_CHANGED).fetchone()
    return bool(found)


@contextmanager
def transaction(connection: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """All of it on the disk when the block has ended, or nothing. Raises NotWritten if the disk refuses."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:  # some errors have rolled back already
                connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if not disk_refuses(error):
            raise
        raise _not_written(error, folder) from error


def _not_written(error: sqlite3.OperationalError, folder: Path) -> WriteRefused:
    full = error.sqlite_errorcode == sqlite3.SQLITE_FULL or _free(folder) < _ROOM
    if full:
        return WriteRefused(
            f"nothing was written, the disk of {folder.name} is full: make room, and send it again", True
        )
    cure = "see to the disk, and send it again"
    return WriteRefused(f"nothing was written, {folder.name} takes no writes ({error}): {cure}", False)


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return _ROOM


def holds(folder: Path) -> bool:
    """Whether there are changes beside an index."""
    return (folder / DOCUMENTS).exists()
