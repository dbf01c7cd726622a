"""Input texts of a bulk run: JSON Lines or a Parquet column. All rows are validated before the first one is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from embedship.errors import MissingExtra, UsageError
from embedship.files.json_errors import explain
from embedship.files.jsonl import TOO_DEEP
from embedship.serve.bulk.storage import InputLocation, open_location

_MAX_REPORTED = 10  # invalid lines listed in the error; in a file of another format every line is invalid


class TextRow(NamedTuple):
    """One text. `id` is None if the input has no id; the row number is used instead."""

    id: str | int | None
    text: str
    where: str  # for messages: "line 3"


class InputColumns(NamedTuple):
    """Names of the JSON keys or Parquet columns."""

    text: str
    id: str


class TextSource(Protocol):
    @property
    def place(self) -> InputLocation: ...

    def rows(self, start: int = 0) -> Iterator[TextRow]:
        """Yield the rows from row number `start` on. Raises UsageError that lists the invalid lines."""


def open_source(address: Path | str, columns: InputColumns) -> TextSource:
    """Open a local file or S3 object: Parquet if its name ends with .parquet, otherwise JSON Lines.

    Raises UsageError if it cannot be read, MissingExtra if a library is not installed.
    """
    location = open_location(str(address))
    return ParquetColumns(location, columns) if location.name.endswith(".parquet") else JsonLines(location, columns)


class JsonLines:
    """A JSON Lines file with one object per line. Blank lines are ignored."""

    def __init__(self, place: InputLocation, columns: InputColumns) -> None:
        self.place = place
        self._columns = columns
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def rows(self, start: int = 0) -> Iterator[TextRow]:
        bad: list[str] = []
        row = 0
        with self.place.open() as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row += 1
                if row <= start:
                    continue
                try:
                    parsed = _text_row(self._decode(line), self._columns, f"line {number}")
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    bad.append(f"line {number}: {TOO_DEEP if isinstance(error, RecursionError) else explain(error)}")
                    if len(bad) == _MAX_REPORTED:
                        break
                    continue
                if not bad:
                    yield parsed
        if bad:
            more = " (and perhaps more)" if len(bad) == _MAX_REPORTED else ""
            raise UsageError(f"{self.place}: {len(bad)} invalid lines{more}: {'; '.join(bad)}")


class ParquetColumns:
    """Columns of a Parquet file, read one row group at a time."""

    def __init__(self, place: InputLocation, columns: InputColumns) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise MissingExtra("pyarrow", "parquet") from None
        self.place = place
        self._open = pyarrow.parquet.ParquetFile
        try:
            with place.open() as file:
                names = self._open(file).schema_arrow.names
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(f"{place} is not a Parquet file: {error}") from None
        if columns.text not in names:
            raise UsageError(
                f"{place} has no column {columns.text!r}; it has: {', '.join(names)}. Choose one with --text-column"
            )
        self._columns = columns
        self._names = [name for name in columns if name in names]

    def rows(self, start: int = 0) -> Iterator[TextRow]:
        row = 0
        with self.place.open() as file:
            for batch in self._open(file).iter_batches(columns=self._names):
                if row + len(batch) <= start:
                    row += len(batch)
                    continue
                for values in batch.to_pylist():
                    row += 1
                    if row > start:
                        yield self._row(row, values)

    def _row(self, number: int, values: dict[str, Any]) -> TextRow:
        try:
            return _text_row(values, self._columns, f"row {number}")
        except ValueError as error:
            raise UsageError(f"{self.place}, row {number}: {error}") from None


def _text_row(values: dict[str, Any], columns: InputColumns, place: str) -> TextRow:
    """Return the text and id of one row. Raises ValueError if they have the wrong type."""
    text, id = values.get(columns.text), values.get(columns.id)
    if not isinstance(text, str):
        kind = "missing" if text is None else f"of type {type(text).__name__}"
        raise ValueError(f"`{columns.text}` is {kind}, it must be a string")
    if not isinstance(id, str | int | None) or isinstance(id, bool):
        raise ValueError(f"`{columns.id}` is of type {type(id).__name__}, it must be a string or an integer")
    return TextRow(id, text, place)
