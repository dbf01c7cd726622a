"""`filter` of a search -> an expression in Milvus' language, over what entities keep for it.

What can be asked is what can be asked of a folder (filters.py), by two fields:

    facts      every name=value, and name= for a name that is there: equality and `in` are membership
    scalars    {name: [values]}: ranges compare the first eight; a filter by more is refused, not answered wrongly

Values are written as JSON, so no two facts are written alike; a long one is written as its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from embedship.serve.documents.filters import Condition, Filter, FilterError, Limit, Scalar, bound, limits_of
from embedship.serve.documents.filters import metadata_pairs as facts_of

# Values of a name that a range looks at.
MOST = 8

# Bytes of a fact.
LONGEST = 512

# No JSON that a scalar could be.
_MANY = "[]"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def facts(metadata: Mapping[str, Any]) -> list[str]:
    """
    >>> facts({"year": 2001, "tag": ["a", "b"]})
    ['year=', 'year=2001', 'tag=', 'tag="a"', 'tag="b"']
    """
    found: dict[str, None] = {}
    for name, value in facts_of(metadata):
        found[has_name(name)] = None
        found[_fact(name, value)] = None
    found.update(dict.fromkeys(many(name) for name, values in scalars(metadata).items() if len(values) > MOST))
    return list(found)


def scalars(metadata: Mapping[str, Any]) -> dict[str, list[Scalar]]:
    """
    >>> scalars({"by": {"year": [2001, 2002.0]}})
    {'by.year': [2001, 2002]}
    """
    found: dict[str, list[Scalar]] = {}
    for name, value in facts_of(metadata):
        found.setdefault(name, []).append(_plain(value))
    return found


def has_name(name: str) -> str:
    """The fact that a document has this name."""
    return _written(name, "")


def many(name: str) -> str:
    """The fact that it has more values of this name than a range looks at."""
    return _written(name, _MANY)


def has(*facts: str) -> str:
    """The entities that have one of these."""
    return f"array_contains_any(facts, [{', '.join(map(quoted, facts))}])"


def expression(wanted: Filter) -> str:
    """The entities that meet every condition. Raises FilterError for a name that no range can be asked of."""
    return " and ".join(part for name, condition in wanted.items() for part in _parts(name, condition))


def ranged(wanted: Filter) -> list[str]:
    """Names that a range is asked of."""
    return [name for name, each in wanted.items() if isinstance(each, Condition) and _limits(each)]


def rows_in(rows: Sequence[int]) -> str:
    return f"row in [{', '.join(map(str, rows))}]"


def quoted(text: str) -> str:
    """
    >>> print(quoted('say "a"'))
    "say \\"a\\""
    """
    return f'"{text.translate(_ESCAPES)}"'


def _parts(name: str, condition: Scalar | Condition) -> Iterator[str]:
    if not isinstance(condition, Condition):
        yield has(_fact(name, condition))
        return
    if condition.one_of is not None:
        yield has(*(_fact(name, each) for each in condition.one_of))
    if limits := _limits(condition):
        if quoted(name) != f'"{name}"':
            raise FilterError(f"filter: a range cannot be asked of {name!r} in Milvus, for its quotes or backslashes")
        # Of a document with a list, one element must lie in the range.
        within = (" and ".join(f"scalars[{quoted(name)}][{at}] {each}" for each in limits) for at in range(MOST))
        yield f"({' or '.join(f'({each})' for each in within)})"


def _limits(condition: Condition) -> list[str]:
    return [f"{sign} {_limit(limit)}" for sign, limit in limits_of(condition) if limit is not None]


def _limit(limit: Limit) -> str:
    """Whole numbers stay whole, but for -(2**63): Milvus may read its sign apart, and then 2**63 is out of range."""
    if isinstance(limit, str):
        return quoted(limit)
    found = bound(limit)
    return str(found) if isinstance(found, int) and found != -(2**63) else repr(float(found))


def _fact(name: str, value: Scalar) -> str:
    return _written(name, msgspec.json.encode(_plain(value)).decode())


def _written(name: str, value: str) -> str:
    text = f"{name}={value}"
    return text if len(text.encode()) <= LONGEST else f"#{hashlib.sha256(text.encode()).hexdigest()}"


def _plain(value: Scalar) -> Scalar:
    """Equal values alike: true is 1, and 2001.0 is 2001."""
    value = bound(value)
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, int) or (value.is_integer() and abs(value) < 2**53) else value
