"""Tables as words in rows and columns; draw.j2 draws them all alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class ColumnKind(StrEnum):
    """How a column is set."""

    TEXT = "text"
    NUMBER = "number"
    CODE = "code"  # a hash, an option: may break anywhere


class TableColumn(NamedTuple):
    heading: str
    kind: ColumnKind = ColumnKind.NUMBER


class TableRow(NamedTuple):
    cells: Sequence[str]
    marked: bool = False


class ChartTable(NamedTuple):
    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[TableRow]


def text(heading: str) -> TableColumn:
    return TableColumn(heading, ColumnKind.TEXT)


def facts(pairs: Iterable[tuple[str, str]], left: str, right: str) -> ChartTable:
    """Names and values."""
    return ChartTable("", (text(left), TableColumn(right, ColumnKind.CODE)), [TableRow(pair) for pair in pairs])
