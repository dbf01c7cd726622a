"""A corpus: JSON Lines in, numbered documents out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from embedship.errors import UsageError
from embedship.serve.documents import Document


class _Line(msgspec.Struct, frozen=True):
    text: str
    id: str | None = None
    beir_id: str | None = msgspec.field(name="_id", default=None)
    title: str | None = None
    metadata: dict[str, Any] | None = None


_KNOWN = {field.encode_name for field in msgspec.structs.fields(_Line)}


def read(path: Path) -> Iterator[tuple[int, Document]]:
    """Yield (line number, document) for each line that is not blank.

    Raises UsageError with file, line number and reason at the first bad line, or when the file holds none.
    """
    number = 0
    found = False
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(line, f"{path}, line {number}")
                    found = True
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not found:
        raise UsageError(f"{path} is empty: it needs at least one document")


def _parsed(line: bytes, where: str) -> Document:
    try:
        return _document(msgspec.json.decode(line.decode(), type=dict[str, Any]))
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from None


def _document(fields: dict[str, Any]) -> Document:
    line = msgspec.convert(fields, _Line)
    id = line.id if line.id is not None else line.beir_id
    if not id:
        raise ValueError("it needs a non-empty `id` (or `_id`)")
    if not line.text.strip():
        raise ValueError("`text` is empty")
    others = {name: value for name, value in fields.items() if name not in _KNOWN}
    return Document(id, line.text, line.title or None, {**others, **(line.metadata or {})})
