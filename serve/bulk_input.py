"""The texts of a bulk run: JSON Lines or a column of Parquet, checked as a whole before the first one is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from embedship import sealed
from embedship.errors import MissingExtra, UsageError

_SHOWN = 10  # bad lines that are named; a file of another kind has nothing else


class Row(NamedTuple):
    """`id` is None where the input has none; its row number stands for it."""

    id: str | int | None
    text: str


class Columns(NamedTuple):
    text: str
    id: str


class Source(Protocol):
    path: Path

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows from number `start` on. Raises UsageError naming the bad lines."""


def open_source(path: Path, columns: Columns) -> Source:
    """By its name: .parquet, or else JSON Lines. Raises UsageError or MissingExtra."""
    if not path.is_file():
        raise UsageError(f"{path} is no file: name JSON Lines or Parquet")
    return Parquet(path, columns) if path.suffix == ".parquet" else JsonLines(path, columns)


def digest(source: Source) -> str:
    return sealed.sha256_of(source.path)


class JsonLines:
    """An object a line; blank lines are no rows."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def rows(self, start: int = 0) -> Iterator[Row]:
        bad: list[str] = []
        row = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row += 1
                if row <= start:
                    continue
                try:
                    parsed = _picked(self._decode(line), self._columns)
                except (msgspec.MsgspecError, ValueError) as error:
                    bad.append(f"line {number}: {error}")
                    if len(bad) == _SHOWN:
                        break
                    continue
                if not bad:
                    yield parsed
        if bad:
            more = " (and perhaps more)" if len(bad) == _SHOWN else ""
            raise UsageError(f"{self.path}: {len(bad)} bad lines{more}: {'; '.join(bad)}")


class Parquet:
    """Columns of a Parquet file, read a row group at a time."""

    def __init__(self, path: Path, columns: Columns) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise MissingExtra("pyarrow", "parquet") from None
        self.path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(f"{path} is no Parquet: {error}") from None
        names = self._file.schema_arrow.names
        if columns.text not in names:
            raise UsageError(f"{path} has no column {columns.text!r}; it has: {', '.join(names)} (--text-column)")
        self._columns = columns
        self._names = [name for name in columns if name in names]

    def rows(self, start: int = 0) -> Iterator[Row]:
        row = 0
        for batch in self._file.iter_batches(columns=self._names):
            if row + len(batch) <= start:
                row += len(batch)
                continue
            for values in batch.to_pylist():
                row += 1
                if row <= start:
                    continue
                try:
                    yield _picked(values, self._columns)
                except ValueError as error:
                    raise UsageError(f"{self.path}, row {row}: {error}") from None


def _picked(values: dict[str, Any], columns: Columns) -> Row:
    text, id = values.get(columns.text), values.get(columns.id)
    if not isinstance(text, str):
        found = "missing" if text is None else f"a {type(text).__name__}"
        raise ValueError(f"`{columns.text}` is {found}, it must be a string")
    if not isinstance(id, str | int | None) or isinstance(id, bool):
        raise ValueError(f"`{columns.id}` is a {type(id).__name__}, it must be a string or a whole number")
    return Row(id, text)
