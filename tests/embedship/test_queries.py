from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedship import queries
from embedship.errors import UsageError


def log(path: Path, *rows: dict[str, Any]) -> Path:
    file = path / "queries.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_texts_alone_will_do(tmp_path: Path) -> None:
    found = queries.read(log(tmp_path, {"text": "a", "user_agent": "x"}, {"text": "b"}))
    assert found == queries.QueryLog(["a", "b"])


def test_sessions_of_one_name_are_one(tmp_path: Path) -> None:
    rows = [{"text": "a", "session": "s"}, {"text": "b"}, {"text": "c", "session": 7}, {"text": "d", "session": "s"}]
    sessions = queries.read(log(tmp_path, *rows)).sessions
    assert sessions is not None
    assert sessions.tolist() == [0, queries.ALONE, 1, 0]


def test_times_put_queries_in_order(tmp_path: Path) -> None:
    """With a zone, without one, and in seconds: all the same clock."""
    stamps = ["2026-11-22T09:00:02+01:00", "2026-11-22T08:00:01", 1795334400.0]
    rows = [{"text": str(n), "timestamp": at, "session": n} for n, at in enumerate(stamps)]
    found = queries.read(log(tmp_path, *rows))
    assert found.texts == ["2", "1", "0"]
    assert found.times is not None
    assert found.times.tolist() == [1795334400.0, 1795334401.0, 1795334402.0]


def test_a_query_that_was_not_judged_has_no_recall(tmp_path: Path) -> None:
    found = queries.read(log(tmp_path, {"text": "a", "recall": 0.5}, {"text": "b"})).recalls
    assert found is not None
    np.testing.assert_array_equal(found, [0.5, np.nan])


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"text": " "}, "line 2: .*`text` is empty"),
        ({"text": "b", "recall": 1.5}, "line 2: .*`recall` is 1.5"),
        ({"text": "b", "timestamp": "yesterday"}, "line 2: .*timestamp"),
        ({"text": "b"}, "1 of 2 lines have a `timestamp`"),
        ({"title": "b"}, "line 2: .*text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, second: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        queries.read(log(tmp_path, {"text": "a", "timestamp": 1.0}, second))
