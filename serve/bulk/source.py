"""The texts of a bulk run: JSON Lines or a column of Parquet, checked as a whole before the first one is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from embedship.errors import MissingExtra, UsageError
from embedship.files.jsonl import TOO_DEEP
from embedship.serve.bulk.storage import InputLocation, place

_SHOWN = 10  # bad lines that are named; a file of another kind has nothing else


class TextRow(NamedTuple):
    """`id` is None where the input has none; its row number stands for it."""

    id: str | int | None
    text: str
    where: str  # for messages: "line 3"


class InputColumns(NamedTuple):
    text: str
    id: str


class TextSource(Protocol):
    @property
    def place(self) -> InputLocation: ...

    def rows(self, start: int = 0) -> Iterator[TextRow]:
        """Yield the rows from number `start` on. Raises UsageError naming the bad lines."""


def open_source(address: Path | str, columns: InputColumns) -> TextSource:
    """By its name: .parquet, or else JSON Lines; of this machine, or of S3. Raises UsageError or MissingExtra."""
    found = place(str(address))
    return ParquetColumns(found, columns) if found.name.endswith(".parquet") else JsonLines(found, columns)


class JsonLines:
    """An object a line; blank lines are no rows."""

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
                    parsed = _picked(self._decode(line), self._columns, f"line {number}")
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    bad.append(f"line {number}: {TOO_DEEP if isinstance(error, RecursionError) else error}")
                    if len(bad) == _SHOWN:
                        break
                    continue
                if not bad:
                    yield parsed
        if bad:
            more = " (and perhaps more)" if len(bad) == _SHOWN else ""
            raise UsageError(f"{self.place}: {len(bad)} bad lines{more}: {'; '.join(bad)}")


class ParquetColumns:
    """Columns of a Parquet file, read a row group at a time."""

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
            raise UsageError(f"{place} is no Parquet: {error}") from None
        if columns.text not in names:
            raise UsageError(f"{place} has no column {columns.text!r}; it has: {', '.join(names)} (--text-column)")
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
            return _picked(values, self._columns, f"row {number}")
        except ValueError as error:
            raise UsageError(f"{self.place}, row {number}: {error}") from None


def _picked(values: dict[str, Any], columns: InputColumns, where: str) -> TextRow:
    text, id = values.get(columns.text), values.get(columns.id)
    if not isinstance(text, str):
        found = "missing" if text is None else f"a {type(text).__name__}"
        raise ValueError(f"`{columns.text}` is {found}, it must be a string")
    if not isinstance(id, str | int | None) or isinstance(id, bool):
        raise ValueError(f"`{columns.id}` is a {type(id).__name__}, it must be a string or a whole number")
    return TextRow(id, text, where)
