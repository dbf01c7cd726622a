"""Puts and deletes documents, in the given order, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.codes import Vectors
from embedship.errors import UsageError
from embedship.serve.documents import filters, store
from embedship.serve.documents.changes import Change, ChangeCounts, PutDocument
from embedship.serve.documents.store import Document
from embedship.serve.live.database import LiveState

_SELECT_ROWS = "SELECT row, title, text, metadata FROM documents WHERE id = ? ORDER BY number"
# `words` is an FTS5 index over an external table, so a deletion must pass the indexed text again.
_DELETE_WORDS = "INSERT INTO words (words, rowid, title, text) VALUES ('delete', ?, ?, ?)"
_INSERT_WORDS = "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)"
_DELETE_FACT = "DELETE FROM facts WHERE name = ? AND value IS ? AND row = ?"

# Row numbers have 32 bits, because a row and its score share 64 bits (ranking.py).
_MOST_NUMBERS = 2**32 - 1


class _DocumentRow(NamedTuple):
    """A row of the documents table: a document, or a chunk of one."""

    row: int
    title: str | None
    text: str
    metadata: str | None


def apply(connection: sqlite3.Connection, state: LiveState, changes: Iterable[Change]) -> ChangeCounts:
    """Write the changes as the next version. Runs inside a transaction of the caller."""
    writer = _ChangeWriter(connection, state)
    counts = ChangeCounts()
    for change in changes:
        counts += writer.put(change) if isinstance(change, PutDocument) else writer.delete(change.id)
    more = counts.new - counts.deleted
    connection.execute("UPDATE state SET version = ?, next = ?, size = size + ?", (writer.version, writer.next, more))
    return counts


def to_half_precision(vector: Vectors) -> NDArray[np.float16]:
    """Return the vector in float16, as snapshots store it, so that a compaction changes no score."""
    return vector.astype("<f2")


class _ChangeWriter:
    def __init__(self, connection: sqlite3.Connection, state: LiveState) -> None:
        self.version, self.next = state.version + 1, state.next
        self._connection = connection

    def put(self, change: PutDocument) -> ChangeCounts:
        """Add or replace a document. Its rows are reused if the new chunks fit into them, else it gets new rows."""
        old = self._rows(change.document.id)
        first = old[0].row if len(change.chunks) <= len(old) else self._allocate(len(change.chunks))
        rows = range(first, first + len(change.chunks))
        self._remove(old)
        self._mark_gone([each.row for each in old if each.row not in rows])
        store.whole_of(self._connection, first, change.document, change.chunks)
        for row, chunk, vector in zip(rows, change.chunks, change.vectors, strict=True):
            self._insert(row, first, chunk, vector)
        return ChangeCounts(replaced=1) if old else ChangeCounts(new=1)

    def delete(self, id: str) -> ChangeCounts:
        old = self._rows(id)
        self._remove(old)
        self._mark_gone([each.row for each in old])
        return ChangeCounts(deleted=1) if old else ChangeCounts()

    def _rows(self, id: str) -> list[_DocumentRow]:
        """Return the rows of a document in order; empty if the id is unknown."""
        return [_DocumentRow(*row) for row in self._connection.execute(_SELECT_ROWS, [id])]

    def _insert(self, row: int, line: int, chunk: Document, vector: Vectors) -> None:
        store.insert(self._connection, row, line, chunk)
        self._connection.execute(_INSERT_WORDS, (row, chunk.title, chunk.text))
        self._connection.execute(
            "INSERT INTO fresh VALUES (?, ?, ?)", (row, self.version, to_half_precision(vector).tobytes())
        )

    def _remove(self, rows: Sequence[_DocumentRow]) -> None:
        """Delete rows, with their words, metadata and vectors."""
        for each in rows:
            self._connection.execute(_DELETE_WORDS, (each.row, each.title, each.text))
            facts = filters.metadata_pairs(msgspec.json.decode(each.metadata)) if each.metadata else ()
            self._connection.executemany(_DELETE_FACT, [(*fact, each.row) for fact in facts])
        for table in ("documents", "wholes", "fresh"):
            self._connection.executemany(f"DELETE FROM {table} WHERE row = ?", [(each.row,) for each in rows])  # noqa: S608 - our own table names

    def _mark_gone(self, rows: Sequence[int]) -> None:
        """Record that rows of the snapshot are deleted. Their numbers are never used for other documents."""
        self._connection.executemany("INSERT INTO gone VALUES (?, ?)", [(row, self.version) for row in rows])

    def _allocate(self, count: int) -> int:
        """Return the first of `count` consecutive new row numbers. Raises UsageError if there are no more."""
        if self.next + count > _MOST_NUMBERS:
            raise UsageError("this index has used all row numbers (2^32 - 1): build it again with `embedship index`")
        self.next += count
        return self.next - count
