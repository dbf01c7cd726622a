"""Tables as words in rows and columns; draw.j2 draws them all alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """How a column is set."""

    TEXT = "text"
    NUMBER = "number"
    CODE = "code"  # a hash, an option: may break anywhere


class Column(NamedTuple):
    heading: str
    kind: Kind = Kind.NUMBER


class Row(NamedTuple):
    cells: Sequence[str]
    marked: bool = False


class Table(NamedTuple):
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]


def text(heading: str) -> Column:
    return Column(heading, Kind.TEXT)


def facts(pairs: Iterable[tuple[str, str]], left: str, right: str) -> Table:
    """Names and values."""
    return Table("", (text(left), Column(right, Kind.CODE)), [Row(pair) for pair in pairs])
