"""A corpus: JSON Lines in, numbered documents out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from embedship.errors import UsageError
from embedship.files import jsonl
from embedship.serve.documents.store import NUL, Document

_NAMED = 10  # skipped documents that are named; the others are counted


class _DocumentLine(msgspec.Struct, frozen=True):
    text: str
    id: str | None = None
    beir_id: str | None = msgspec.field(name="_id", default=None)
    title: str | None = None
    metadata: dict[str, Any] | None = None


_KNOWN = {field.encode_name for field in msgspec.structs.fields(_DocumentLine)}


class SkippedDocuments(msgspec.Struct, frozen=True):
    """Documents that were left out because they hold no text, as standard corpora have some."""

    documents: int = 0
    ids: tuple[str, ...] = ()  # of the first ones

    def add(self, id: str) -> SkippedDocuments:
        return SkippedDocuments(self.documents + 1, (*self.ids, id)[:_NAMED])

    def __str__(self) -> str:
        """How many, and which: "2 (d7, d9)"."""
        more = ", ..." if self.documents > len(self.ids) else ""
        return f"{self.documents:,} ({', '.join(self.ids)}{more})" if self.documents else "none"


NONE_SKIPPED = SkippedDocuments()


class CorpusFile:
    """A file of documents. Documents without text are skipped and counted, not refused: nothing could find them.

    With `with_title` the title is embedded as well, so a document that has only a title is kept.
    """

    def __init__(self, path: Path, with_title: bool = False) -> None:
        self._path = path
        self._with_title = with_title
        self.skipped = SkippedDocuments()  # complete once all documents have been read
        self.skipped_ids: set[str] = set()

    def read(self) -> Iterator[tuple[int, Document]]:
        """Yield (line number, document) for each document with text.

        Raises UsageError as `jsonl.rows` does, and if no document has text.
        """
        self.skipped, self.skipped_ids = SkippedDocuments(), set()
        found = False
        for number, each in jsonl.rows(self._path, document):
            if has_text(each, self._with_title):
                found = True
                yield number, each
            else:
                self.skipped = self.skipped.add(each.id)
                self.skipped_ids.add(each.id)
        if not found:
            raise UsageError(f"{self._path} holds no document with text: all {self.skipped.documents:,} are empty")


def has_text(document: Document, with_title: bool) -> bool:
    """Whether there is anything to embed besides white space."""
    return bool(document.text.strip() or (with_title and document.title and document.title.strip()))


def document(raw: bytes) -> Document:
    """One line; its text may be empty. Raises ValueError for what is no document."""
    fields = msgspec.json.decode(raw.decode(), type=dict[str, Any])
    line = msgspec.convert(fields, _DocumentLine)
    id = line.id if line.id is not None else line.beir_id
    if not id:
        raise ValueError("it needs a non-empty `id` (or `_id`)")
    if "\0" in id:
        raise ValueError(f"`id` {NUL}")
    others = {name: value for name, value in fields.items() if name not in _KNOWN}
    return Document(id, line.text, line.title or None, {**others, **(line.metadata or {})})
