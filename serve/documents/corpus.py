"""Corpus file: reads documents from JSON Lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from embedship.errors import UsageError
from embedship.files import jsonl
from embedship.serve.documents.store import NUL, Document

_MAX_NAMED = 10  # number of ids of skipped documents that are kept; other skipped documents are only counted


class _DocumentLine(msgspec.Struct, frozen=True):
    text: str
    id: str | None = None
    beir_id: str | None = msgspec.field(name="_id", default=None)
    title: str | None = None
    metadata: dict[str, Any] | None = None


_KNOWN = {field.encode_name for field in msgspec.structs.fields(_DocumentLine)}


class SkippedDocuments(msgspec.Struct, frozen=True):
    """Documents that were skipped because they contain no text. Standard corpora contain some."""

    documents: int = 0
    ids: tuple[str, ...] = ()  # of the first _MAX_NAMED skipped documents

    def add(self, id: str) -> SkippedDocuments:
        return SkippedDocuments(self.documents + 1, (*self.ids, id)[:_MAX_NAMED])

    def __str__(self) -> str:
        """Return the count and the ids, such as "2 (d7, d9)", or "none"."""
        more = ", ..." if self.documents > len(self.ids) else ""
        return f"{self.documents:,} ({', '.join(self.ids)}{more})" if self.documents else "none"


NONE_SKIPPED = SkippedDocuments()


class CorpusFile:
    """A file of documents. Documents without text are skipped and counted: no search could find them.

    With `with_title` the title is embedded as well, so a document that has only a title is kept.
    """

    def __init__(self, path: Path, with_title: bool = False) -> None:
        self._path = path
        self._with_title = with_title
        self.skipped = SkippedDocuments()  # complete once all documents have been read
        self.skipped_ids: set[str] = set()

    def read(self) -> Iterator[tuple[int, Document]]:
        """Yield (line number, document) for each document with text.

        Raises UsageError as `jsonl.numbered_rows` does, and if no document has text.
        """
        self.skipped, self.skipped_ids = SkippedDocuments(), set()
        any_text = False
        for number, each in jsonl.numbered_rows(self._path, document):
            if has_text(each, self._with_title):
                any_text = True
                yield number, each
            else:
                self.skipped = self.skipped.add(each.id)
                self.skipped_ids.add(each.id)
        if not any_text:
            raise UsageError(f"{self._path} contains no document with text: all {self.skipped.documents:,} are empty")


def has_text(document: Document, with_title: bool) -> bool:
    """Return whether there is anything to embed except white space."""
    return bool(document.text.strip() or (with_title and document.title and document.title.strip()))


def document(raw: bytes) -> Document:
    """Parse one line. The text may be empty. Raises ValueError if the line is not a document."""
    fields = msgspec.json.decode(raw.decode(), type=dict[str, Any])
    line = msgspec.convert(fields, _DocumentLine)
    id = line.id if line.id is not None else line.beir_id
    if not id:
        raise ValueError("it needs a non-empty `id` (or `_id`)")
    if "\0" in id:
        raise ValueError(f"`id` {NUL}")
    metadata_fields = {name: value for name, value in fields.items() if name not in _KNOWN}
    return Document(id, line.text, line.title or None, {**metadata_fields, **(line.metadata or {})})
