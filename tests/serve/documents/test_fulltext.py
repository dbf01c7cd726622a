from __future__ import annotations

import operator
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from embedship.serve.documents import store
from embedship.serve.documents.filters import Condition, Filter, UnknownField
from embedship.serve.documents.fulltext import MOST_WORDS, KeywordIndex, expression
from embedship.serve.documents.store import Document

ROWS = [
    Document("a", "Gout is a kind of arthritis", None, {"year": 1999, "kind": "disease", "tag": ["joint", "pain"]}),
    Document(
        "b", "Aspirin relieves pains", "Asp\u00edrin", {"year": 2005, "kind": "drug", "tag": ["pain"], "old": True}
    ),
    Document("c", "Insulin lowers sugar", None, {"year": 2021.5, "kind": "drug", "by": {"name": "Banting"}}),
    Document("d", "Nothing of the kind", None, {"year": "unknown", "huge": 2**80, "none": None}),
]


@pytest.fixture
def words(tmp_path: Path) -> Iterator[KeywordIndex]:
    store.write(tmp_path / "documents.sqlite", enumerate(ROWS, 1))
    with closing(KeywordIndex.open(tmp_path / "documents.sqlite", len(ROWS))) as opened:
        yield opened


def found(words: KeywordIndex, text: str, wanted: Filter | None = None, k: int = 4) -> list[int]:
    rows = words.search([text], k, wanted).rows[0]
    return [int(row) for row in rows if row >= 0]


def test_words_are_found_by_stem_without_accents_and_in_titles(words: KeywordIndex) -> None:
    assert found(words, "pain") == found(words, "ASPIRIN") == [1]
    assert found(words, "sugars and insulins") == [2]
    assert found(words, "xylophone") == found(words, "?! --") == []


def test_scores_are_bm25(tmp_path: Path) -> None:
    """Against the formula: k1 1.2, b 0.75, and the idf of FTS5."""
    texts = ["walrus ice", "walrus walrus sea", "sea ice fog wind", "fog", "rain"]
    store.write(tmp_path / "d.sqlite", ((n, Document(str(n), text)) for n, text in enumerate(texts)))
    with closing(KeywordIndex.open(tmp_path / "d.sqlite", len(texts))) as opened:
        hits = opened.search(["walrus"], 5)
    split = [text.split() for text in texts]
    mean = sum(map(len, split)) / len(split)
    idf = np.log((5 - 2 + 0.5) / (2 + 0.5))
    expected = {
        row: idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(split[row]) / mean))
        for row in range(5)
        if (tf := split[row].count("walrus"))
    }
    assert hits.rows[0].tolist() == [1, 0, -1, -1, -1]
    np.testing.assert_allclose(hits.scores[0, :2], [expected[1], expected[0]], rtol=1e-5)
    assert (hits.scores[0, 2:] == -np.inf).all()


SYNTAX = [
    '"',
    "a AND",
    "NOT gout",
    "gout*",
    "title:gout",
    "{title} : gout",
    "NEAR(gout, 2",
    "^gout",
    "gou\0t",
    "'; DROP TABLE words",
]


@pytest.mark.parametrize("text", SYNTAX)
def test_nothing_of_a_text_is_syntax(words: KeywordIndex, text: str) -> None:
    assert found(words, text + " gout") == [0]


def test_a_pasted_page_costs_so_many_words_and_no_more() -> None:
    assert expression(" ".join(map(str, range(1000)))).count(" OR ") == MOST_WORDS - 1
    assert expression("gout gout") == '"gout"'


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"kind": "drug"}, [1, 2]),
    ({"tag": "pain"}, [0, 1]),
    ({"tag": {"in": ["joint", "x"]}}, [0]),
    ({"by.name": "Banting"}, [2]),
    ({"old": True}, [1]),
    ({"old": 1}, [1]),
    ({"huge": 2**80}, [3]),
    ({"year": 2005}, [1]),
    ({"year": "2005"}, []),
    ({"year": {"gte": 2000}}, [1, 2]),
    ({"year": {"gt": 1999, "lte": 2005}}, [1]),
    ({"year": {"gte": "a"}}, [3]),
    ({"year": {"lt": "zzz"}}, [3]),
    ({"year": {"gte": 2000, "lt": "zzz"}}, []),
    ({"year": {"in": [1999, "unknown"]}, "kind": "disease"}, [0]),
    ({"kind": "drug", "tag": "pain", "year": {"lt": 2000}}, []),
    ({"kind": "' OR 1=1 --"}, []),
]


@pytest.mark.parametrize(("given", "rows"), FILTERS)
def test_filters(words: KeywordIndex, given: dict[str, Any], rows: list[int]) -> None:
    wanted = msgspec.convert(given, Filter)
    for _ in range(2):  # the second time from the cache
        assert np.flatnonzero(words.allowed(wanted)).tolist() == rows
    everything = "gout aspirin insulin nothing"
    assert sorted(found(words, everything, wanted)) == rows


# Neighbours that are one number as floats, both ends of 64 bits, and what lies beyond.
WHOLE = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**63 - 1, -(2**63) + 1, 1_700_000_000_000_000_001]
NUMBERS = [Document(f"n{n}", "gout", None, {"n": n}) for n in WHOLE]
RANGES = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
LIMITS = [*WHOLE, 1.5, 2.0**53, -(2**63), 2**63, 2**80, -(2**80), 10**400]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("sign", RANGES)
def test_ranges_of_whole_numbers_are_exact(tmp_path: Path, sign: str, limit: float) -> None:
    store.write(tmp_path / "d.sqlite", enumerate(NUMBERS, 1))
    with closing(KeywordIndex.open(tmp_path / "d.sqlite", len(NUMBERS))) as words:
        wanted = msgspec.json.decode(msgspec.json.encode({"n": {sign: limit}}), type=Filter)
        expected = [row for row, n in enumerate(WHOLE) if RANGES[sign](n, limit)]
        assert np.flatnonzero(words.allowed(wanted)).tolist() == expected


def test_a_number_that_is_none_of_sqlites_is_kept_as_the_nearest(tmp_path: Path) -> None:
    store.write(tmp_path / "d.sqlite", enumerate([Document("a", "gout", None, {"n": 10**400, "m": -(10**400)})], 1))
    with closing(KeywordIndex.open(tmp_path / "d.sqlite", 1)) as words:
        for wanted in ({"n": 10**400}, {"m": -(10**400)}, {"n": Condition(gt=2**80), "m": Condition(lt=-(2**80))}):
            assert np.flatnonzero(words.allowed(wanted)).tolist() == [0]


@pytest.mark.parametrize("name", ["colour", "none", "by", "x') --"])
def test_a_field_that_no_document_has(words: KeywordIndex, name: str) -> None:
    for ask in (words.allowed, lambda wanted: words.search(["gout"], 3, wanted)):
        with pytest.raises(UnknownField, match="no document has the metadata field"):
            ask({name: 1})


@pytest.mark.parametrize("given", [{}, {"in": []}, {"near": 3}, {"gte": [1]}])
def test_what_is_no_condition(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, Condition)


def test_filters_walk_an_index(tmp_path: Path) -> None:
    store.write(tmp_path / "d.sqlite", enumerate(ROWS, 1))
    with closing(sqlite3.connect(tmp_path / "d.sqlite")) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT row FROM facts WHERE name = ? AND value >= ? AND value < ''", ("year", 2000)
        ).fetchall()
    assert "SEARCH facts USING PRIMARY KEY (name=? AND value>?" in plan[0][-1]
