"""What the rows of an index are: id, text, title and metadata, their words and facts, in a read-only SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Lock
from typing import Any, Self

import msgspec

from embedship.errors import UnsafeError, UsageError
from embedship.serve import filters

DOCUMENTS = "documents.sqlite"

# `line` is where the document stood in the corpus; the unique id is also what an update would look a row up by.
_TABLE = """CREATE TABLE documents (
    row INTEGER PRIMARY KEY, line INTEGER NOT NULL, id TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL, title TEXT, metadata TEXT)"""
_INSERT = "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)"
# Words are looked up without accents and English endings; the texts themselves are not stored a second time.
_WORDS = """CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='documents', content_rowid='row', tokenize='porter unicode61 remove_diacritics 2')"""
_FILL_WORDS = ("INSERT INTO words(words) VALUES('rebuild')", "INSERT INTO words(words) VALUES('optimize')")
# One statement for any number of rows, in the order they were asked for.
_ROWS = "SELECT d.id, d.row FROM json_each(?) AS wanted JOIN documents AS d ON d.id = wanted.value"
_FETCH = """SELECT d.id, d.text, d.title, d.metadata
    FROM json_each(?) AS wanted JOIN documents AS d ON d.row = wanted.value ORDER BY wanted.key"""


class Document(msgspec.Struct, frozen=True):
    id: str
    text: str
    title: str | None = None
    metadata: dict[str, Any] = {}


class Documents:
    """Thread-safe: one connection behind a lock. Fetching ten documents holds it for some 15 us."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = Lock()
        (self.size,) = connection.execute("SELECT count(*) FROM documents").fetchone()

    @classmethod
    def open(cls, path: Path) -> Self:
        try:
            with ExitStack() as on_error:
                opened = cls(on_error.enter_context(closing(connect(path))))
                on_error.pop_all()
                return opened
        except sqlite3.Error as error:
            raise UnsafeError(f"{path} is damaged: {error}") from None

    def fetch(self, rows: Sequence[int]) -> list[Document]:
        """The documents of these rows, in this order. Raises IndexError if a row does not exist."""
        with self._lock:
            found = self._connection.execute(_FETCH, [msgspec.json.encode(list(map(int, rows))).decode()]).fetchall()
        if len(found) != len(rows):
            raise IndexError(f"rows must lie between 0 and {self.size - 1}: {list(rows)}")
        return [_document(*values) for values in found]

    def rows(self, ids: Sequence[str]) -> dict[str, int]:
        """The row of each of these ids that a document has; an unknown one is left out."""
        with self._lock:
            return dict(self._connection.execute(_ROWS, [msgspec.json.encode(ids).decode()]).fetchall())

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """Open for reading. `immutable` spares SQLite its locks: the file never changes, it is only ever replaced."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def write(path: Path, lines: Iterable[tuple[int, Document]]) -> int:
    """Write (line number, document) pairs as rows 0, 1, ... and return how many there were.

    Raises UsageError if two documents have the same id. A torn file is the caller's to delete: there is no journal.
    """
    rows = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            _TABLE,
            _WORDS,
            filters.FACTS,
            "BEGIN",
        ):
            connection.execute(statement)
        for rows, (line, document) in enumerate(lines, 1):
            _insert(connection, rows - 1, line, document)
        for statement in (*_FILL_WORDS, "COMMIT"):
            connection.execute(statement)
    return rows


def _insert(connection: sqlite3.Connection, row: int, line: int, document: Document) -> None:
    metadata = msgspec.json.encode(document.metadata).decode() if document.metadata else None
    try:
        connection.execute(_INSERT, (row, line, document.id, document.text, document.title, metadata))
    except sqlite3.IntegrityError:
        (first,) = connection.execute("SELECT line FROM documents WHERE id = ?", [document.id]).fetchone()
        raise UsageError(f"line {line}: the id {document.id!r} was given to line {first} already") from None
    connection.executemany(filters.INSERT, [(*fact, row) for fact in filters.facts(document.metadata)])


def _document(id: str, text: str, title: str | None, metadata: str | None) -> Document:
    return Document(id, text, title, msgspec.json.decode(metadata, type=dict[str, Any]) if metadata else {})
