"""What the rows of an index are: id, text, title and metadata, their words and facts, in a read-only SQLite file.

A row is what has a vector: a document, or where documents were cut, one chunk of one. The chunks of a document have
its id, title and metadata, and follow each other; the first of them stands for it.
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

# `line` is where the document stood in the corpus; the id is also what an update would look rows up by. `number` counts
# the chunks of a document; `start` and `end`, characters of its whole text, are null where it was not cut.
_TABLE = """CREATE TABLE documents (
    row INTEGER PRIMARY KEY, line INTEGER NOT NULL, id TEXT NOT NULL,
    text TEXT NOT NULL, title TEXT, metadata TEXT,
    number INTEGER NOT NULL DEFAULT 0, start INTEGER, "end" INTEGER, UNIQUE (id, number))"""
_INSERT = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Of a document whose first chunk is not all of it, by its first row: a hit reads a chunk and not a book, a migration
# cuts it anew.
_WHOLES = "CREATE TABLE wholes (row INTEGER PRIMARY KEY, text TEXT NOT NULL)"
# Words are looked up without accents and English endings; the texts themselves are not stored a second time.
_WORDS = """CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='documents', content_rowid='row', tokenize='porter unicode61 remove_diacritics 2')"""
SCHEMA = (_TABLE, _WHOLES, _WORDS, filters.FACTS)
_FILL_WORDS = ("INSERT INTO words(words) VALUES('rebuild')", "INSERT INTO words(words) VALUES('optimize')")
# One statement for any number of rows, in the order they were asked for.
_ROWS = """SELECT d.id, d.row FROM json_each(?) AS wanted
    JOIN documents AS d ON d.id = wanted.value AND d.number = 0"""
_FETCH = """SELECT d.id, d.text, d.title, d.metadata, d.number, d.start, d."end"
    FROM json_each(?) AS wanted JOIN documents AS d ON d.row = wanted.value ORDER BY wanted.key"""
_WHOLE = """SELECT d.line, d.id, coalesce(w.text, d.text), d.title, d.metadata
    FROM documents AS d LEFT JOIN wholes AS w ON w.row = d.row WHERE d.number = 0 ORDER BY d.row"""

_UNCUT = """SELECT d.id, coalesce(w.text, d.text), d.title, d.metadata FROM json_each(?) AS wanted
    JOIN documents AS d ON d.id = wanted.value AND d.number = 0 LEFT JOIN wholes AS w ON w.row = d.row"""

_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}

# Documents cut at once: their texts are tokenised in one batch.
_BATCH = 512


# SQLite ends a text of its JSON there: such a document would be found by a search, and could not be asked for.
NUL = "holds a NUL (\\u0000), and could not be looked up by it: take it out"


class Chunk(msgspec.Struct, frozen=True):
    """Which one of a document's chunks, from 0, and the characters of the document's text that it is."""

    number: int
    start: int
    end: int


class Document(msgspec.Struct, frozen=True):
    id: str
    text: str
    title: str | None = None
    metadata: dict[str, Any] = {}
    chunk: Chunk | None = None  # then `text` is that of the chunk


def same_content(one: Document, other: Document) -> bool:
    """Word for word, names in any order: to Python 1, 1.0 and true are equal, to who reads metadata they are not."""
    metadata, others = (msgspec.json.encode(each.metadata, order="sorted") for each in (one, other))
    return one == other and metadata == others


Split = Callable[[Sequence[Document]], list[list[Document]]]  # documents -> the chunks of each


class DocumentStore:
    """Thread-safe: one connection behind a lock. Fetching ten documents holds it for some 15 us.

    `size`, `first_rows` and `count` are of a file that never changes: they are read once.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        try:
            with ExitStack() as on_error:
                opened = cls(on_error.enter_context(closing(connect(path))))
                _ = opened.firsts  # what cannot be read is known now
                on_error.pop_all()
                return opened
        except sqlite3.Error as error:
            raise UnsafeError(f"{path} is damaged: {error}") from None

    def fetch(self, rows: Sequence[int]) -> list[Document]:
        """The documents of these rows, in this order. Raises IndexError if a row does not exist."""
        with self._lock:
            found = self._connection.execute(_FETCH, [msgspec.json.encode(list(map(int, rows))).decode()]).fetchall()
        if len(found) != len(rows):
            raise IndexError(f"not all of these rows are there: {list(rows)}")
        return [_document(*values) for values in found]

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """The first row of each of these ids that a document has; an unknown one is left out."""
        with self._lock:
            return dict(self._connection.execute(_ROWS, [msgspec.json.encode(ids).decode()]).fetchall())

    def ids(self) -> frozenset[str]:
        """Of all documents, no text read."""
        with self._lock:
            return frozenset(id for (id,) in self._connection.execute("SELECT id FROM documents WHERE number = 0"))

    def full_texts(self, ids: Sequence[str]) -> dict[str, Document]:
        """All of each of these documents, however it was cut; an unknown one is left out."""
        with self._lock:
            found = self._connection.execute(_UNCUT, [msgspec.json.encode(ids).decode()]).fetchall()
        return {id: _document(id, *values) for id, *values in found}

    @cached_property
    def size(self) -> int:
        """Of rows."""
        with self._lock:
            (size,) = self._connection.execute("SELECT count(*) FROM documents").fetchone()
        return int(size)

    @cached_property
    def firsts(self) -> NDArray[np.uint32] | None:
        """(size,) for each row the first row of its document; None where every row is a document."""
        size = self.size
        with self._lock:
            (most,) = self._connection.execute("SELECT max(number) FROM documents").fetchone()
            return first_rows(self._connection, 0, size) if most else None

    @property
    def count(self) -> int:
        """Of whole documents."""
        return self.size if self.firsts is None else int(np.count_nonzero(self.firsts == np.arange(self.size)))

    def whole(self) -> Iterator[tuple[int, Document]]:
        """Every document uncut, and its line, in the order of the rows."""
        with self._lock:
            cursor = self._connection.execute(_WHOLE)
            while found := cursor.fetchmany(_BATCH):
                yield from ((line, _document(*values)) for line, *values in found)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def first_rows(connection: sqlite3.Connection, start: int, stop: int) -> NDArray[np.uint32]:
    """(stop - start,) the first row of the document of each of these rows; of a row that is not there, itself."""
    found = np.arange(start, stop, dtype=np.uint32)
    rows = connection.execute("SELECT row, row - number FROM documents WHERE row >= ? AND row < ?", (start, stop))
    pairs = np.fromiter(rows, dtype=[("row", np.uint32), ("first", np.uint32)])
    found[pairs["row"] - start] = pairs["first"]
    return found


def connect(path: Path) -> sqlite3.Connection:
    """Open for reading. `immutable` spares SQLite its locks: the file never changes, it is only ever replaced.

    Raises UnsafeError for a file that holds anything but our tables, sqlite3.Error for one that cannot be read.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = interruption.interruptible(sqlite3.connect(uri, uri=True, check_same_thread=False))
    try:
        distrust(connection)
        connection.execute("PRAGMA query_only = ON")
        demand_schema(connection, path, SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def distrust(connection: sqlite3.Connection) -> None:
    """Take the file as one that somebody else wrote: nothing in its schema may call functions, cells are checked."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def demand_schema(connection: sqlite3.Connection, path: Path, statements: Sequence[str]) -> None:
    """Raise UnsafeError unless the file holds just what these statements create.

    A view in the place of a table may never end, and a trigger runs with every write.
    """
    found, expected = _schema(connection), _created(tuple(statements))
    if strange := sorted(f"{kind} {name}" for kind, name, _ in found ^ expected):
        raise UnsafeError(
            f"{path} is damaged, or embedship did not write it: its schema differs in {', '.join(strange[:3])}"
        )


@cache
def _created(statements: tuple[str, ...]) -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in statements:
            connection.execute(statement)
        return _schema(connection)


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    """(type, name, statement) of every table, index, view and trigger, spaces aside."""
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema")
    return frozenset((kind, name, " ".join(sql.split())) for kind, name, sql in rows)


def disk_refuses(error: sqlite3.Error) -> bool:
    """Whether the disk is full, failing or for reading only, and the statement was a good one."""
    return error.sqlite_errorcode & 0xFF in _DISK  # the low byte is the kind, the rest its detail


def write(path: Path, lines: Iterable[tuple[int, Document]], split: Split | None = None) -> int:
    """Write (line number, document) pairs as rows 0, 1, ... and return how many rows there are.

    A document is one row, or one for each of the chunks that `split` makes of it. Raises UsageError if two documents
    have the same id. A torn file is the caller's to delete: there is no journal.
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
        raise UsageError(f"line {line}: the id {document.id!r} was given to line {first} already") from None


def whole_of(connection: sqlite3.Connection, first: int, document: Document, chunks: Sequence[Document]) -> None:
    """Keep its whole text beside its chunks, of which row `first` is one, unless that one is all of it."""
    if chunks[0].text != document.text:
        connection.execute("INSERT INTO wholes VALUES (?, ?)", (first, document.text))


def insert(connection: sqlite3.Connection, row: int, line: int, document: Document) -> None:
    """Write a row and its facts. Its words are indexed by whoever knows when: all at once, or with it."""
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
