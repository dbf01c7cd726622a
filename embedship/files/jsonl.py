"""JSON Lines reader: yields typed records, and reports a bad line with its number and the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from embedship.errors import UsageError
from embedship.files.json_errors import explain

Row = TypeVar("Row")

TOO_DEEP = "it is nested too deeply"


class TextLine(msgspec.Struct, frozen=True):
    """A line with a `text`; other fields are ignored."""

    text: str


class QueryLine(TextLine, frozen=True):
    """A line with a `text` that is not blank; other fields are ignored."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("`text` is empty")


def numbered_rows(path: Path, parse: Callable[[bytes], Row]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, record) for each line that is not blank.

    Raises UsageError with file, line number and reason at the first bad line, or if the file has no record. `parse`
    raises ValueError for a bad line.
    """
    empty = True
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(parse, line, f"{path}, line {number}")
                    empty = False
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if empty:
        raise UsageError(f"{path} is empty: it needs at least one line of JSON")


def read(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Yield a record of type `kind` for each line that is not blank. Raises UsageError as `numbered_rows` does."""
    return (row for _, row in numbered_rows(path, msgspec.json.Decoder(kind).decode))


def _parsed(parse: Callable[[bytes], Row], line: bytes, place: str) -> Row:
    try:
        return parse(line)
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError(f"{place}: {explain(error)}") from None
    except RecursionError:
        raise UsageError(f"{place}: {TOO_DEEP}") from None
