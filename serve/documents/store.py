"""Document store: id, text, title and metadata of the rows of an index, with their words and facts, in SQLite.

The file is read-only. Each vector has one row: a document, or one chunk if documents were split. The chunks of a
document have its id, title and metadata, and consecutive rows; the first row identifies the document.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.errors import UnsafeError, UsageError
from embedship.serve import interruption
from embedship.serve.documents import filters

DOCUMENTS = "documents.sqlite"

# `line` is the line of the document in the corpus. `id` is also the key for updates. `number` counts the chunks of a
# document; `start` and `end` are characters of its whole text, and null if it was not split.
_TABLE = """CREATE TABLE documents (
    row INTEGER PRIMARY KEY, line INTEGER NOT NULL, id TEXT NOT NULL,
    text TEXT NOT NULL, title TEXT, metadata TEXT,
    number INTEGER NOT NULL DEFAULT 0, start INTEGER, "end" INTEGER, UNIQUE (id, number))"""
_INSERT = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Whole text of each document that was split, by its first row: a hit reads only a chunk, a migration splits it again.
_WHOLES = "CREATE TABLE wholes (row INTEGER PRIMARY KEY, text TEXT NOT NULL)"
# Words are looked up without accents and English endings; the texts themselves are not stored a second time.
_WORDS = """CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='documents', content_rowid='row', tokenize='porter unicode61 remove_diacritics 2')"""
SCHEMA = (_TABLE, _WHOLES, _WORDS, filters.FACTS)
_FILL_WORDS = ("INSERT INTO words(words) VALUES('rebuild')", "INSERT INTO words(words) VALUES('optimize')")
# One statement for any number of rows, returned in the requested order.
_ROWS = """SELECT d.id, d.row FROM json_each(?) AS wanted
    JOIN documents AS d ON d.id = wanted.value AND d.number = 0"""
_FETCH = """SELECT d.id, d.text, d.title, d.metadata, d.number, d.start, d."end"
    FROM json_each(?) AS wanted JOIN documents AS d ON d.row = wanted.value ORDER BY wanted.key"""
_WHOLE = """SELECT d.line, d.id, coalesce(w.text, d.text), d.title, d.metadata
    FROM documents AS d LEFT JOIN wholes AS w ON w.row = d.row WHERE d.number = 0 ORDER BY d.row"""

_UNCUT = """SELECT d.id, coalesce(w.text, d.text), d.title, d.metadata FROM json_each(?) AS wanted
    JOIN documents AS d ON d.id = wanted.value AND d.number = 0 LEFT JOIN wholes AS w ON w.row = d.row"""

_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}

# Documents split at once: their texts are tokenised in one batch.
_BATCH = 512


# SQLite ends a JSON text at NUL: a search could find such a document, but it could not be fetched by its id.
NUL = "contains a NUL character (\\u0000), and the document could not be fetched by it: remove the character"


class MissingRows(IndexError):
    """The words or facts of a file, or its caller, name rows that it does not have."""


class Chunk(msgspec.Struct, frozen=True):
    """Position of a chunk in its document: its number from 0, and its characters of the document's text."""

    number: int
    start: int
    end: int


class Document(msgspec.Struct, frozen=True):
    """A document, or one of its chunks, which has the text of the chunk and the other fields of the document."""

    id: str
    text: str
    title: str | None = None
    metadata: dict[str, Any] = {}
    chunk: Chunk | None = None  # if set, `text` is the text of the chunk


def same_content(one: Document, other: Document) -> bool:
    """Return whether both are identical, with keys in any order. Unlike ==, JSON distinguishes 1, 1.0 and true."""
    metadata, others = (msgspec.json.encode(each.metadata, order="sorted") for each in (one, other))
    return one == other and metadata == others


Split = Callable[[Sequence[Document]], list[list[Document]]]  # documents -> the chunks of each


class DocumentStore:
    """The documents of an index. Thread-safe: one connection with a lock. Fetching ten documents takes about 15 us.

    `size`, `firsts` and `count` are read once, because the file never changes.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        try:
            with ExitStack() as on_error:
                opened = cls(on_error.enter_context(closing(connect(path))))
                _ = opened.firsts  # read now, so that a damaged file is reported at once
                on_error.pop_all()
                return opened
        except sqlite3.Error as error:
            raise UnsafeError(f"{path} is damaged: {error}") from None

    def fetch(self, rows: Sequence[int]) -> list[Document]:
        """Return the documents of these rows in this order. Raises MissingRows if a row does not exist."""
        with self._lock:
            records = self._connection.execute(_FETCH, [msgspec.json.encode(list(map(int, rows))).decode()]).fetchall()
        if len(records) != len(rows):
            raise MissingRows(f"some of these rows do not exist: {list(rows)[:10]}")
        return [_document(*values) for values in records]

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """Return {id: first row of the document}. Unknown ids are omitted."""
        with self._lock:
            return dict(self._connection.execute(_ROWS, [msgspec.json.encode(ids).decode()]).fetchall())

    def ids(self) -> frozenset[str]:
        """Return the ids of all documents. No text is read."""
        with self._lock:
            return frozenset(id for (id,) in self._connection.execute("SELECT id FROM documents WHERE number = 0"))

    def full_texts(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return {id: whole document}, also for documents that were split. Unknown ids are omitted."""
        with self._lock:
            records = self._connection.execute(_UNCUT, [msgspec.json.encode(ids).decode()]).fetchall()
        return {id: _document(id, *values) for id, *values in records}

    @cached_property
    def size(self) -> int:
        """Number of rows."""
        with self._lock:
            (size,) = self._connection.execute("SELECT count(*) FROM documents").fetchone()
        return int(size)

    @property
    def row_numbers(self) -> range:
        """From the lowest to the highest row number. Its length is `size` if no number in between is missing."""
        with self._lock:
            low, high = self._connection.execute("SELECT min(row), max(row) FROM documents").fetchone()
        return range(0) if low is None else range(low, high + 1)

    @cached_property
    def firsts(self) -> NDArray[np.uint32] | None:
        """First row of each row's document, (size,) uint32; None if every row is a document."""
        size = self.size
        with self._lock:
            (most,) = self._connection.execute("SELECT max(number) FROM documents").fetchone()
            return first_rows(self._connection, 0, size) if most else None

    @property
    def count(self) -> int:
        """Number of whole documents."""
        return self.size if self.firsts is None else int(np.count_nonzero(self.firsts == np.arange(self.size)))

    def whole(self) -> Iterator[tuple[int, Document]]:
        """Yield (line, whole document) for every document, in the order of the rows."""
        with self._lock:
            cursor = self._connection.execute(_WHOLE)
            while records := cursor.fetchmany(_BATCH):
                yield from ((line, _document(*values)) for line, *values in records)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def first_rows(connection: sqlite3.Connection, start: int, stop: int) -> NDArray[np.uint32]:
    """Return the first row of each row's document, (stop - start,) uint32; the row itself if it does not exist."""
    found = np.arange(start, stop, dtype=np.uint32)
    rows = connection.execute("SELECT row, row - number FROM documents WHERE row >= ? AND row < ?", (start, stop))
    pairs = np.fromiter(rows, dtype=[("row", np.uint32), ("first", np.uint32)])
    found[pairs["row"] - start] = pairs["first"]
    return found


def connect(path: Path) -> sqlite3.Connection:
    """Open for reading. `immutable` disables SQLite's locks: the file never changes, it is only ever replaced.

    Raises UnsafeError if the file contains anything except our tables, sqlite3.Error if it cannot be read.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = interruption.interruptible(sqlite3.connect(uri, uri=True, check_same_thread=False))
    try:
        treat_as_untrusted(connection)
        connection.execute("PRAGMA query_only = ON")
        demand_schema(connection, path, SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def treat_as_untrusted(connection: sqlite3.Connection) -> None:
    """Treat the file as untrusted: its schema may not call functions, and cells are checked."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def demand_schema(connection: sqlite3.Connection, path: Path, statements: Sequence[str]) -> None:
    """Raise UnsafeError unless the schema of the file is exactly what these statements create.

    If a view replaced a table, reading it might never end; a trigger would run with every write.
    """
    actual, expected = _schema(connection), _created(tuple(statements))
    if different := sorted(f"{kind} {name}" for kind, name, _ in actual ^ expected):
        raise UnsafeError(
            f"{path} is damaged, or was not written by embedship: its schema differs in {', '.join(different[:3])}"
        )


@cache
def _created(statements: tuple[str, ...]) -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in statements:
            connection.execute(statement)
        return _schema(connection)


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    """Return (type, name, statement) of every table, index, view and trigger, with white space normalised."""
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema")
    return frozenset((kind, name, " ".join(sql.split())) for kind, name, sql in rows)


def disk_refuses(error: sqlite3.Error) -> bool:
    """Return whether the disk is full, failing or read-only, so that the statement itself is not at fault."""
    return error.sqlite_errorcode & 0xFF in _DISK  # the low byte is the primary code, the rest is detail


def write(path: Path, lines: Iterable[tuple[int, Document]], split: Split | None = None) -> int:
    """Write (line number, document) pairs as rows 0, 1, ... and return the number of rows.

    A document becomes one row, or one row per chunk that `split` returns. Raises UsageError if two documents have the
    same id. There is no journal: if writing fails, the caller must delete the file.
    """
    rows = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            *SCHEMA,
            "BEGIN",
        ):
            connection.execute(statement)
        for line, document, chunks in _split(lines, split):
            whole_of(connection, rows, document, chunks)
            for chunk in chunks:
                _insert(connection, rows, line, chunk)
                rows += 1
        for statement in (*_FILL_WORDS, "COMMIT"):
            connection.execute(statement)
    return rows


def _split(
    lines: Iterable[tuple[int, Document]], split: Split | None
) -> Iterator[tuple[int, Document, Sequence[Document]]]:
    if split is None:
        yield from ((line, document, (document,)) for line, document in lines)
        return
    ahead = iter(lines)
    while batch := list(islice(ahead, _BATCH)):
        chunked = split([document for _, document in batch])
        yield from ((line, document, chunks) for (line, document), chunks in zip(batch, chunked, strict=True))


def _insert(connection: sqlite3.Connection, row: int, line: int, document: Document) -> None:
    try:
        insert(connection, row, line, document)
    except sqlite3.IntegrityError:
        (first,) = connection.execute("SELECT line FROM documents WHERE id = ?", [document.id]).fetchone()
        raise UsageError(f"line {line}: the id {document.id!r} is already used in line {first}") from None


def whole_of(connection: sqlite3.Connection, first: int, document: Document, chunks: Sequence[Document]) -> None:
    """Store the whole text of a document in addition to its chunks, unless its only chunk is the whole text."""
    if chunks[0].text != document.text:
        connection.execute("INSERT INTO wholes VALUES (?, ?)", (first, document.text))


def insert(connection: sqlite3.Connection, row: int, line: int, document: Document) -> None:
    """Write a row and its facts. The caller indexes its words: for all rows at once, or for each row."""
    metadata = msgspec.json.encode(document.metadata).decode() if document.metadata else None
    number, start, end = (0, None, None) if (chunk := document.chunk) is None else msgspec.structs.astuple(chunk)
    values = (row, line, document.id, document.text, document.title, metadata, number, start, end)
    connection.execute(_INSERT, values)
    connection.executemany(filters.INSERT, [(*fact, row) for fact in filters.metadata_pairs(document.metadata)])


def _document(
    id: str,
    text: str,
    title: str | None,
    metadata: str | None,
    number: int = 0,
    start: int | None = None,
    end: int | None = None,
) -> Document:
    known = msgspec.json.decode(metadata, type=dict[str, Any]) if metadata else {}
    return Document(id, text, title, known, None if start is None or end is None else Chunk(number, start, end))
