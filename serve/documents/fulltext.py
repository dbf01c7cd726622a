"""Keyword search and filters on documents.sqlite: BM25 by SQLite's FTS5, and filters by the table of facts."""

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
from embedship.serve.documents.store import MissingRows, connect

# Maximum number of words of one text that are searched. A query has about ten words, a pasted page has thousands, and
# the search reads one posting list per word.
MAX_WORDS_PER_TEXT = 64

# Maximum number of words in all texts of one request: 64 texts of 64 words. A search for the 64 most frequent words of
# 20,000 documents took 0.28 s of CPU time.
MOST_SEARCHED = 4_096

# A longer text is counted as MAX_WORDS_PER_TEXT words without reading it.
_COUNTED_CHARACTERS = 2_000

# Number of cached masks, one byte per row each.
_MASKS = 32

_WORD = re.compile(r"\w+")
_SEARCH = "SELECT rowid, -rank FROM words WHERE words MATCH ? {among} ORDER BY rank, rowid LIMIT ?"


def words_of(text: str) -> list[str]:
    """Return the first MAX_WORDS_PER_TEXT distinct words of the text, in order."""
    return list(dict.fromkeys(_WORD.findall(text)))[:MAX_WORDS_PER_TEXT]


def too_many(texts: Sequence[str]) -> bool:
    """Return whether the texts together have more words than one request may search for.

    >>> too_many(["gout"] * 4_096), too_many(["gout"] * 4_097)
    (False, True)
    """
    total = 0
    for text in texts:
        total += MAX_WORDS_PER_TEXT if len(text) > _COUNTED_CHARACTERS else len(words_of(text))
        if total > MOST_SEARCHED:
            return True
    return False


def expression(text: str) -> str:
    """Return the FTS5 query that matches any word of the text.

    Words are quoted and other characters are dropped, so that FTS5 reads no part of the text as an operator.

    >>> expression('symptoms of "gout" OR NEAR(')
    '"symptoms" OR "of" OR "gout" OR "OR" OR "NEAR"'
    """
    return " OR ".join(f'"{word}"' for word in words_of(text))


def _has_fts5(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


class KeywordIndex:
    """Keyword search and filters. Thread-safe: one connection with a lock, separate from that of DocumentStore.

    A keyword search can take long, and fetching documents, which takes microseconds, must not wait for it.
    """

    def __init__(self, connection: sqlite3.Connection, size: int) -> None:
        self._connection = connection
        self._size = size
        self._version = -1  # stays -1 for a file that never changes
        self._lock = Lock()
        self._masks: OrderedDict[bytes, Allowed] = OrderedDict()

    @classmethod
    def open(cls, path: Path, size: int) -> Self:
        """Open the tables of words and facts. Raises UsageError if FTS5 is missing, UnsafeError for a damaged file."""
        connection = connect(path)
        try:
            connection.execute("SELECT rowid FROM words LIMIT 1").fetchone()
        except sqlite3.Error as error:
            searchable = _has_fts5(connection)
            connection.close()
            if not searchable:
                raise UsageError(
                    f"SQLite {sqlite3.sqlite_version} of this Python has no FTS5: use a Python whose SQLite has it"
                ) from None
            raise UnsafeError(f"{path} is damaged: {error}") from None
        return cls(connection, size)

    def renew(self, version: int, size: int) -> None:
        """Call after documents have changed: cached masks are dropped if `version` is a new one."""
        with self._lock:
            if version != self._version:
                self._version, self._size = version, size
                self._masks.clear()

    def search(self, texts: Sequence[str], k: int, wanted: Filter | None = None) -> RankedRows:
        """Return the k best rows of each text by BM25 (k1 1.2, b 0.75) among those that meet the filter.

        Scores are BM25 scores, larger is better; they compare only rows of the same text. Missing rows are -1: if the
        text has no words, or if fewer than k rows contain any of them. Raises UnknownField.
        """
        self._require_known(wanted)
        condition = filters.query(wanted) if wanted else None
        statement = _SEARCH.format(among=f"AND rowid IN ({condition.statement})" if condition else "")
        ranked = RankedRows(
            np.full((len(texts), k), -1, dtype=np.int64), np.full((len(texts), k), -np.inf, dtype=np.float32)
        )
        for number, text in enumerate(texts):
            interruption.check()
            if match := expression(text):
                with self._lock:
                    best = self._connection.execute(
                        statement, (match, *(condition.values if condition else ()), k)
                    ).fetchall()
                for rank, (row, score) in enumerate(best):
                    ranked.rows[number, rank], ranked.scores[number, rank] = row, score
        return ranked

    def allowed(self, wanted: Filter) -> Allowed:
        """Return a mask (size,) that is True for each row that meets the filter. Raises UnknownField."""
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
            allowed_rows = np.fromiter((row for (row,) in rows), dtype=np.int64, count=len(rows))
            if len(allowed_rows) and not 0 <= allowed_rows.min() <= allowed_rows.max() < self._size:
                raise MissingRows(f"the filter found row {allowed_rows.max()} of {self._size}")
            mask[allowed_rows] = True
            self._masks[key] = mask
            if len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        return mask

    def _require_known(self, wanted: Filter | None) -> None:
        """Raise UnknownField for a field that no document has. Otherwise a misspelt field would just match nothing."""
        for name in wanted or ():
            with self._lock:
                if self._connection.execute("SELECT 1 FROM facts WHERE name = ? LIMIT 1", [name]).fetchone():
                    continue
            raise UnknownField(name)

    def close(self) -> None:
        with self._lock, closing(self._connection):
            self._masks.clear()
