"""Documents put and deleted, in the order given, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.codes import Vectors
from embedship.errors import UsageError
from embedship.serve import filters
from embedship.serve.documents import Document
from embedship.serve.live.database import State

_KNOWN = "SELECT row, title, text, metadata FROM documents WHERE id = ?"
_PUT = """INSERT INTO documents (row, line, id, text, title, metadata) VALUES (?1, ?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (row) DO UPDATE SET text = ?3, title = ?4, metadata = ?5"""
# An index of words over a table that lies elsewhere must be told what it has to forget.
_FORGET_WORDS = "INSERT INTO words (words, rowid, title, text) VALUES ('delete', ?, ?, ?)"
_LEARN_WORDS = "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)"
_FORGET_FACT = "DELETE FROM facts WHERE name = ? AND value IS ? AND row = ?"

# Rows share 64 bits with their scores (ranking.py).
_MOST_NUMBERS = 2**32 - 1


class Put(NamedTuple):
    """A document and its unit vector, (dim,) float32."""

    document: Document
    vector: Vectors


class Delete(NamedTuple):
    id: str


Change = Put | Delete


class Done(msgspec.Struct, frozen=True):
    """What came of changes: documents of which there were none before, that were others before, that are gone."""

    new: int = 0
    replaced: int = 0
    deleted: int = 0

    def __add__(self, other: Done) -> Done:
        return Done(self.new + other.new, self.replaced + other.replaced, self.deleted + other.deleted)


class _Row(NamedTuple):
    """A document as it lies in the database."""

    row: int
    title: str | None
    text: str
    metadata: str | None


def apply(connection: sqlite3.Connection, state: State, changes: Iterable[Change]) -> Done:
    """Write them as the next version; inside a transaction, which is the caller's."""
    writing = _Writing(connection, state)
    done = Done()
    for change in changes:
        done += writing.put(change) if isinstance(change, Put) else writing.delete(change.id)
    more = done.new - done.deleted
    connection.execute("UPDATE state SET version = ?, next = ?, size = size + ?", (writing.version, writing.next, more))
    return done


def halves(vector: Vectors) -> NDArray[np.float16]:
    """As snapshots keep vectors, so that a compaction changes no score."""
    return vector.astype("<f2")


class _Writing:
    def __init__(self, connection: sqlite3.Connection, state: State) -> None:
        self.version, self.next = state.version + 1, state.next
        self._connection = connection

    def put(self, change: Put) -> Done:
        document = change.document
        known = self._known(document.id)
        if known:
            self._forget(known)
        row = known.row if known else self._number()
        metadata = msgspec.json.encode(document.metadata).decode() if document.metadata else None
        execute = self._connection.execute
        execute(_PUT, (row, document.id, document.text, document.title, metadata))
        execute(_LEARN_WORDS, (row, document.title, document.text))
        self._connection.executemany(filters.INSERT, [(*fact, row) for fact in filters.facts(document.metadata)])
        vector = halves(change.vector).tobytes()
        execute("INSERT OR REPLACE INTO fresh VALUES (?, ?, ?)", (row, self.version, vector))
        return Done(replaced=1) if known else Done(new=1)

    def delete(self, id: str) -> Done:
        known = self._known(id)
        if known is None:
            return Done()
        self._forget(known)
        self._connection.execute("DELETE FROM documents WHERE row = ?", [known.row])
        self._connection.execute("DELETE FROM fresh WHERE row = ?", [known.row])
        self._connection.execute("INSERT INTO gone VALUES (?, ?)", (known.row, self.version))
        return Done(deleted=1)

    def _known(self, id: str) -> _Row | None:
        found = self._connection.execute(_KNOWN, [id]).fetchone()
        return _Row(*found) if found else None

    def _forget(self, known: _Row) -> None:
        """Its words and its facts."""
        self._connection.execute(_FORGET_WORDS, (known.row, known.title, known.text))
        facts = filters.facts(msgspec.json.decode(known.metadata)) if known.metadata else ()
        self._connection.executemany(_FORGET_FACT, [(*fact, known.row) for fact in facts])

    def _number(self) -> int:
        if self.next >= _MOST_NUMBERS:
            raise UsageError("this index has given out all its numbers: build it again with `embedship index`")
        self.next += 1
        return self.next - 1
