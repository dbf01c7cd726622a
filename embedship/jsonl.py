"""JSON Lines in, typed records out; a bad line is named by its number and the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from embedship.errors import UsageError

Row = TypeVar("Row")


class Text(msgspec.Struct, frozen=True):
    """A line of which only the text matters."""

    text: str


def read(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Yield a record for each line that is not blank.

    Raises UsageError with file, line number and reason at the first bad line, or when the file holds none.
    """
    decoder, found = msgspec.json.Decoder(kind), False
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                yield _decode(decoder, line, f"{path}, line {number}")
                found = True
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not found:
        raise UsageError(f"{path} is empty: it needs at least one line of JSON")


def _decode(decoder: msgspec.json.Decoder[Row], line: bytes, where: str) -> Row:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {error}") from None
