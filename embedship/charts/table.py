"""Tables as data: texts in rows and columns, which draw.j2 draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class ColumnKind(StrEnum):
    """How a column is formatted."""

    TEXT = "text"
    NUMBER = "number"
    CODE = "code"  # a hash or an option: may break anywhere


class TableColumn(NamedTuple):
    """A column: its heading and its format."""

    heading: str
    kind: ColumnKind = ColumnKind.NUMBER


class TableRow(NamedTuple):
    """A row: its cells, and whether it is highlighted."""

    cells: Sequence[str]
    marked: bool = False


class ChartTable(NamedTuple):
    """A table with its caption."""

    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[TableRow]


def text(heading: str) -> TableColumn:
    """Return a text column."""
    return TableColumn(heading, ColumnKind.TEXT)


def facts(pairs: Iterable[tuple[str, str]], left: str, right: str) -> ChartTable:
    """Return a table of names and values."""
    return ChartTable("", (text(left), TableColumn(right, ColumnKind.CODE)), [TableRow(pair) for pair in pairs])
