"""Keyword search and filters over documents.sqlite: BM25 by SQLite's FTS5, rows by their facts."""

from __future__ import annotations

import re
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Self

import msgspec
import numpy as np

from embedship.errors import UnsafeError, UsageError
from embedship.ranking import RankedRows
from embedship.serve import interruption
from embedship.serve.documents import filters
from embedship.serve.documents.filters import Allowed, Filter, UnknownField
from embedship.serve.documents.store import connect

# A question has some ten words, a pasted page thousands: each costs a walk through its postings.
MOST_WORDS = 64

# Words of all texts of one request together: as many as 64 texts of 64 words. 0.28 CPU seconds were measured for a text
# of the 64 commonest words of 20,000 documents.
MOST_SEARCHED = 4_096

# A longer text is taken to have MOST_WORDS words, and is not read to be refused.
_COUNTED_CHARACTERS = 2_000

# Masks kept, a byte a row each.
_MASKS = 32

_WORD = re.compile(r"\w+")
_SEARCH = "SELECT rowid, -rank FROM words WHERE words MATCH ? {among} ORDER BY rank, rowid LIMIT ?"


def words_of(text: str) -> list[str]:
    """Each once, in the order in which they come, and no more than count."""
    return list(dict.fromkeys(_WORD.findall(text)))[:MOST_WORDS]


def too_many(texts: Sequence[str]) -> bool:
    """Whether these texts have more words together than one request may search for.

    >>> too_many(["gout"] * 4_096), too_many(["gout"] * 4_097)
    (False, True)
    """
    found = 0
    for text in texts:
        found += MOST_WORDS if len(text) > _COUNTED_CHARACTERS else len(words_of(text))
        if found > MOST_SEARCHED:
            return True
    return False


def expression(text: str) -> str:
    """Any of the words, each in quotes: whatever else the user wrote is left out, so nothing of it is syntax.

    >>> expression('symptoms of "gout" OR NEAR(')
    '"symptoms" OR "of" OR "gout" OR "OR" OR "NEAR"'
    """
    return " OR ".join(f'"{word}"' for word in words_of(text))


def _has_fts5(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


class KeywordIndex:
    """Thread-safe: one connection behind a lock, and not that of the documents, which are fetched in microseconds."""

    def __init__(self, connection: sqlite3.Connection, size: int) -> None:
        self._connection = connection
        self._size = size
        self._version = -1  # of a file that never changes
        self._lock = Lock()
        self._masks: OrderedDict[bytes, Allowed] = OrderedDict()

    @classmethod
    def open(cls, path: Path, size: int) -> Self:
        """Raises UsageError where SQLite has no FTS5, UnsafeError if the file is damaged."""
        connection = connect(path)
        try:
            connection.execute("SELECT rowid FROM words LIMIT 1").fetchone()
        except sqlite3.Error as error:
            searchable = _has_fts5(connection)
            connection.close()
            if not searchable:
                raise UsageError(f"Python's SQLite {sqlite3.sqlite_version} has no FTS5: take one that has") from None
            raise UnsafeError(f"{path} is damaged: {error}") from None
        return cls(connection, size)

    def renew(self, version: int, size: int) -> None:
        """Documents have changed: rows below `size` may be others now."""
        with self._lock:
            if version != self._version:
                self._version, self._size = version, size
                self._masks.clear()

    def search(self, texts: Sequence[str], k: int, wanted: Filter | None = None) -> RankedRows:
        """The k best rows of each text by BM25 (k1 1.2, b 0.75), among those that meet the filter.

        Scores are BM25's, larger is better; they compare the rows of one text and nothing else. A text without a
        word, and rows without any of the words, give none: -1. Raises UnknownField.
        """
        self._require_known(wanted)
        among = filters.query(wanted) if wanted else None
        statement = _SEARCH.format(among=f"AND rowid IN ({among.statement})" if among else "")
        found = RankedRows(
            np.full((len(texts), k), -1, dtype=np.int64), np.full((len(texts), k), -np.inf, dtype=np.float32)
        )
        for place, text in enumerate(texts):
            interruption.check()
            if asked := expression(text):
                with self._lock:
                    best = self._connection.execute(statement, (asked, *(among.values if among else ()), k)).fetchall()
                for rank, (row, score) in enumerate(best):
                    found.rows[place, rank], found.scores[place, rank] = row, score
        return found

    def allowed(self, wanted: Filter) -> Allowed:
        """(size,) True for each row that meets the filter. Raises UnknownField."""
        key = msgspec.json.encode(wanted, order="sorted")
        with self._lock:
            if (known := self._masks.get(key)) is not None:
                self._masks.move_to_end(key)
                return known
        self._require_known(wanted)
        statement, values = filters.query(wanted)
        with self._lock:
            rows = self._connection.execute(statement, values).fetchall()
            mask = np.zeros(self._size, dtype=np.bool_)
            mask[np.fromiter((row for (row,) in rows), dtype=np.int64, count=len(rows))] = True
            self._masks[key] = mask
            if len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        return mask

    def _require_known(self, wanted: Filter | None) -> None:
        """An unknown field would match nothing, and look like a filter that worked."""
        for name in wanted or ():
            with self._lock:
                if self._connection.execute("SELECT 1 FROM facts WHERE name = ? LIMIT 1", [name]).fetchone():
                    continue
            raise UnknownField(name)

    def close(self) -> None:
        with self._lock, closing(self._connection):
            self._masks.clear()
