"""Search filters for Milvus: converts a filter to an expression in Milvus' language.

The same filters are supported as for an index folder (filters.py), with two fields of each entity:

    facts      every name=value, and name= for every name that exists: for equality and `in`
    scalars    {name: [values]}: for ranges, which compare the first eight values. If a document has more values, the
               filter is rejected, because its result would be wrong

Values are written as JSON, so that different facts have different texts. A long fact is replaced by its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from embedship.serve.documents.filters import Condition, Filter, FilterError, Limit, Scalar, bound, limits_of
from embedship.serve.documents.filters import metadata_pairs as facts_of

# Number of values per name that a range compares.
MOST = 8

# Maximum length of a fact, in bytes.
LONGEST = 512

# Marks a name with more than MOST values. No scalar has this JSON.
_MANY = "[]"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def facts(metadata: Mapping[str, Any]) -> list[str]:
    """Return the facts of a document's metadata.

    >>> facts({"year": 2001, "tag": ["a", "b"]})
    ['year=', 'year=2001', 'tag=', 'tag="a"', 'tag="b"']
    """
    unique: dict[str, None] = {}
    for name, value in facts_of(metadata):
        unique[has_name(name)] = None
        unique[_fact(name, value)] = None
    unique.update(dict.fromkeys(many_fact(name) for name, values in scalars(metadata).items() if len(values) > MOST))
    return list(unique)


def scalars(metadata: Mapping[str, Any]) -> dict[str, list[Scalar]]:
    """Return the values of each name of a document's metadata.

    >>> scalars({"by": {"year": [2001, 2002.0]}})
    {'by.year': [2001, 2002]}
    """
    values: dict[str, list[Scalar]] = {}
    for name, value in facts_of(metadata):
        values.setdefault(name, []).append(_canonical(value))
    return values


def has_name(name: str) -> str:
    """Return the fact that a document has this name."""
    return _fact_text(name, "")


def many_fact(name: str) -> str:
    """Return the fact that a document has more values of this name than a range compares."""
    return _fact_text(name, _MANY)


def has_any(*facts: str) -> str:
    """Return the expression for entities that have at least one of these facts."""
    return f"array_contains_any(facts, [{', '.join(map(quoted, facts))}])"


def expression(wanted: Filter) -> str:
    """Return the expression for entities that meet every condition. Raises FilterError for an impossible range."""
    return " and ".join(part for name, condition in wanted.items() for part in _parts(name, condition))


def range_names(wanted: Filter) -> list[str]:
    """Return the names that have a range condition."""
    return [name for name, each in wanted.items() if isinstance(each, Condition) and _limits(each)]


def rows_in(rows: Sequence[int]) -> str:
    return f"row in [{', '.join(map(str, rows))}]"


def quoted(text: str) -> str:
    """Quote a text for an expression.
    >>> print(quoted('say "a"'))
    "say \\"a\\""
    """
    return f'"{text.translate(_ESCAPES)}"'


def _parts(name: str, condition: Scalar | Condition) -> Iterator[str]:
    if not isinstance(condition, Condition):
        yield has_any(_fact(name, condition))
        return
    if condition.one_of is not None:
        yield has_any(*(_fact(name, each) for each in condition.one_of))
    if limits := _limits(condition):
        if quoted(name) != f'"{name}"':
            raise FilterError(
                f"filter: Milvus does not support a range on {name!r}, because the name contains quotes or backslashes"
            )
        # If the value is a list, one element must be within all limits.
        conditions = (" and ".join(f"scalars[{quoted(name)}][{at}] {each}" for each in limits) for at in range(MOST))
        yield f"({' or '.join(f'({each})' for each in conditions)})"


def _limits(condition: Condition) -> list[str]:
    return [f"{sign} {_limit(limit)}" for sign, limit in limits_of(condition) if limit is not None]


def _limit(limit: Limit) -> str:
    """Write a limit. Integers stay exact, except -(2**63), which is written as a float.

    Milvus may parse the sign separately, and 2**63 is larger than its largest integer.
    """
    if isinstance(limit, str):
        return quoted(limit)
    number = bound(limit)
    return str(number) if isinstance(number, int) and number != -(2**63) else repr(float(number))


def _fact(name: str, value: Scalar) -> str:
    return _fact_text(name, msgspec.json.encode(_canonical(value)).decode())


def _fact_text(name: str, value: str) -> str:
    text = f"{name}={value}"
    return text if len(text.encode()) <= LONGEST else f"#{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: Scalar) -> Scalar:
    """Return the same value for equal values: 1 for true, 2001 for 2001.0."""
    value = bound(value)
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, int) or (value.is_integer() and abs(value) < 2**53) else value
