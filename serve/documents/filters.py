"""Search filters: compile conditions on metadata to an SQL query for the rows that meet all of them.

Every scalar of a document's metadata is stored as a fact (name, value, row), and so is every element of a list. Names
in nested objects are joined by dots. Facts are indexed by name and value. Names and values are bound as parameters and
never inserted into a statement. As in SQLite's JSON, true and false are 1 and 0.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from embedship.errors import UsageError

Allowed = NDArray[np.bool_]  # (size,) True for each row that may be found


Scalar = str | int | float | bool
Limit = int | float | str

FACTS = (
    "CREATE TABLE facts (name TEXT NOT NULL, value, row INTEGER NOT NULL, PRIMARY KEY (name, value, row)) WITHOUT ROWID"
)
INSERT = "INSERT OR IGNORE INTO facts VALUES (?, ?, ?)"

# Range of SQLite's INTEGER. Larger integers are stored as REAL, and integers beyond that range as the largest REAL.
_INTEGERS = range(-(2**63), 2**63)
_LARGEST = int(sys.float_info.max)


class FilterError(UsageError):
    """A filter that cannot be used with this index."""


class UnknownField(FilterError):
    """A filter on a metadata field that no document has."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"filter: no document has the metadata field {name!r}. Fields that are always null or empty do not count"
        )


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename={"one_of": "in"}):
    """Conditions on one field; all given ones must hold. Numbers compare only with numbers, and texts with texts."""

    one_of: Annotated[list[Scalar], Meta(min_length=1, max_length=1000)] | None = None
    # Not only float: integers must stay exact. As a float, 2**53 + 1 would become 2**53.
    gt: Limit | None = None
    gte: Limit | None = None
    lt: Limit | None = None
    lte: Limit | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, field) is None for field in self.__struct_fields__):
            raise ValueError("a condition needs one of in, gt, gte, lt, lte")


Filter = dict[str, Scalar | Condition]

# SQLite allows 500 parts of a compound statement and 32,766 values. Each part is one lookup in the index of facts.
MAX_CONDITIONS, MAX_VALUES = 64, 4_096


class SqlQuery(NamedTuple):
    """A statement that selects rows, and the values of its parameters."""

    statement: str
    values: tuple[Any, ...]


def metadata_pairs(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Yield (name, value) for every scalar except null.

    >>> list(metadata_pairs({"year": 2001, "tag": ["a", "b"], "by": {"name": "x"}}))
    [('year', 2001), ('tag', 'a'), ('tag', 'b'), ('by.name', 'x')]
    """
    for name, value in metadata.items():
        if isinstance(value, dict):
            yield from metadata_pairs(value, f"{prefix}{name}.")
        else:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str | int | float):
                    yield f"{prefix}{name}", bound(each)


def bound(value: Scalar) -> Scalar:
    """Return the value in a form that SQLite can store."""
    if not isinstance(value, int) or value in _INTEGERS:
        return value
    return float(min(max(value, -_LARGEST), _LARGEST))


def demand(wanted: Filter) -> None:
    """Raise FilterError if the filter has too many conditions or too many values in lists."""
    if len(wanted) > MAX_CONDITIONS:
        raise FilterError(f"filter: {len(wanted)} fields; at most {MAX_CONDITIONS} are allowed")
    values = sum(len(each.one_of or ()) for each in wanted.values() if isinstance(each, Condition))
    if values > MAX_VALUES:
        raise FilterError(f"filter: {values:,} values in lists (`in`); at most {MAX_VALUES:,} are allowed")


def query(wanted: Filter) -> SqlQuery:
    """Return the query for the rows that meet every condition. Raises FilterError if there are too many."""
    demand(wanted)
    parts = [part for name, condition in wanted.items() for part in _parts(name, condition)]
    return SqlQuery(
        " INTERSECT ".join(part.statement for part in parts), tuple(v for part in parts for v in part.values)
    )


def _parts(name: str, condition: Scalar | Condition) -> Iterator[SqlQuery]:
    if not isinstance(condition, Condition):
        yield _rows(name, "value = ?", bound(condition))
        return
    if condition.one_of is not None:
        marks = ", ".join("?" * len(condition.one_of))
        yield _rows(name, f"value IN ({marks})", *map(bound, condition.one_of))
    # A single part for the whole range: if the value is a list, one element must be within all limits.
    limits = [(sign, limit) for sign, limit in limits_of(condition) if limit is not None]
    if limits:
        # In SQLite every text is greater than every number, and '' is the smallest text.
        kinds = {"value >= ''" if isinstance(limit, str) else "value < ''" for _, limit in limits}
        tests = [*(f"value {sign} ?" for sign, _ in limits), *sorted(kinds)]
        yield _rows(name, " AND ".join(tests), *(bound(limit) for _, limit in limits))


def limits_of(condition: Condition) -> tuple[tuple[str, Limit | None], ...]:
    return (">", condition.gt), (">=", condition.gte), ("<", condition.lt), ("<=", condition.lte)


def _rows(name: str, test: str, *values: Scalar) -> SqlQuery:
    return SqlQuery(f"SELECT row FROM facts WHERE name = ? AND {test}", (name, *values))  # noqa: S608 - `test` is ours, values are bound
