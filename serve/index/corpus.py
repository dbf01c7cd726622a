"""A corpus: JSON Lines in, numbered documents out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from embedship import jsonl
from embedship.serve.documents import NUL, Document


class _Line(msgspec.Struct, frozen=True):
    text: str
    id: str | None = None
    beir_id: str | None = msgspec.field(name="_id", default=None)
    title: str | None = None
    metadata: dict[str, Any] | None = None


_KNOWN = {field.encode_name for field in msgspec.structs.fields(_Line)}


def read(path: Path) -> Iterator[tuple[int, Document]]:
    """Yield (line number, document) for each line that is not blank. Raises UsageError as `jsonl.rows` does."""
    return jsonl.rows(path, document)


def document(raw: bytes) -> Document:
    """One line. Raises ValueError for what is no document."""
    fields = msgspec.json.decode(raw.decode(), type=dict[str, Any])
    line = msgspec.convert(fields, _Line)
    id = line.id if line.id is not None else line.beir_id
    if not id:
        raise ValueError("it needs a non-empty `id` (or `_id`)")
    if "\0" in id:
        raise ValueError(f"`id` {NUL}")
    if not line.text.strip():
        raise ValueError("`text` is empty")
    others = {name: value for name, value in fields.items() if name not in _KNOWN}
    return Document(id, line.text, line.title or None, {**others, **(line.metadata or {})})
