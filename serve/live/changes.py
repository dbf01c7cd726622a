"""Documents put and deleted, in the order given, in one transaction."""

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

_KNOWN = "SELECT row, title, text, metadata FROM documents WHERE id = ? ORDER BY number"
# An index of words over a table that lies elsewhere must be told what it has to forget.
_FORGET_WORDS = "INSERT INTO words (words, rowid, title, text) VALUES ('delete', ?, ?, ?)"
_LEARN_WORDS = "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)"
_FORGET_FACT = "DELETE FROM facts WHERE name = ? AND value IS ? AND row = ?"

# Rows share 64 bits with their scores (ranking.py).
_MOST_NUMBERS = 2**32 - 1


class _DocumentRow(NamedTuple):
    """A document, or a chunk of one, as it lies in the database."""

    row: int
    title: str | None
    text: str
    metadata: str | None


def apply(connection: sqlite3.Connection, state: LiveState, changes: Iterable[Change]) -> ChangeCounts:
    """Write them as the next version; inside a transaction, which is the caller's."""
    writing = _ChangeWriter(connection, state)
    done = ChangeCounts()
    for change in changes:
        done += writing.put(change) if isinstance(change, PutDocument) else writing.delete(change.id)
    more = done.new - done.deleted
    connection.execute("UPDATE state SET version = ?, next = ?, size = size + ?", (writing.version, writing.next, more))
    return done


def halves(vector: Vectors) -> NDArray[np.float16]:
    """As snapshots keep vectors, so that a compaction changes no score."""
    return vector.astype("<f2")


class _ChangeWriter:
    def __init__(self, connection: sqlite3.Connection, state: LiveState) -> None:
        self.version, self.next = state.version + 1, state.next
        self._connection = connection

    def put(self, change: PutDocument) -> ChangeCounts:
        known = self._known(change.document.id)
        first = known[0].row if len(change.chunks) <= len(known) else self._numbers(len(change.chunks))
        taken = range(first, first + len(change.chunks))
        self._remove(known)
        self._bury([each.row for each in known if each.row not in taken])
        store.whole_of(self._connection, first, change.document, change.chunks)
        for row, chunk, vector in zip(taken, change.chunks, change.vectors, strict=True):
            self._insert(row, first, chunk, vector)
        return ChangeCounts(replaced=1) if known else ChangeCounts(new=1)

    def delete(self, id: str) -> ChangeCounts:
        known = self._known(id)
        self._remove(known)
        self._bury([each.row for each in known])
        return ChangeCounts(deleted=1) if known else ChangeCounts()

    def _known(self, id: str) -> list[_DocumentRow]:
        """Its rows, in order; none of an unknown one."""
        return [_DocumentRow(*found) for found in self._connection.execute(_KNOWN, [id])]

    def _insert(self, row: int, line: int, chunk: Document, vector: Vectors) -> None:
        store.insert(self._connection, row, line, chunk)
        self._connection.execute(_LEARN_WORDS, (row, chunk.title, chunk.text))
        self._connection.execute("INSERT INTO fresh VALUES (?, ?, ?)", (row, self.version, halves(vector).tobytes()))

    def _remove(self, known: Sequence[_DocumentRow]) -> None:
        """Rows with all that belongs to them."""
        for each in known:
            self._connection.execute(_FORGET_WORDS, (each.row, each.title, each.text))
            facts = filters.metadata_pairs(msgspec.json.decode(each.metadata)) if each.metadata else ()
            self._connection.executemany(_FORGET_FACT, [(*fact, each.row) for fact in facts])
        for table in ("documents", "wholes", "fresh"):
            self._connection.executemany(f"DELETE FROM {table} WHERE row = ?", [(each.row,) for each in known])  # noqa: S608 - names of ours

    def _bury(self, rows: Sequence[int]) -> None:
        """Tell the snapshot; no other document gets these numbers."""
        self._connection.executemany("INSERT INTO gone VALUES (?, ?)", [(row, self.version) for row in rows])

    def _numbers(self, count: int) -> int:
        """The first of so many in a row."""
        if self.next + count > _MOST_NUMBERS:
            raise UsageError("this index has given out all its numbers: build it again with `embedship index`")
        self.next += count
        return self.next - count
