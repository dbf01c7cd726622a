"""POST /feedback: what users say was right, against what they were answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from embedship.serve.settings import Settings

from .conftest import opened


@pytest.fixture
def found(fresh: Callable[..., Any], index_folder: Path) -> Any:
    return fresh(index=index_folder, keep_answers=20)


@pytest.fixture(scope="module")
def shared(settings: Settings, index_folder: Path) -> Iterator[Any]:
    """For all that changes nothing."""
    with opened(replace(settings, index=index_folder)) as asked:
        yield asked


def searched(found: Any, *queries: str) -> tuple[str, list[list[str]]]:
    answer = found.post("/search", {"query": list(queries)})
    results = answer.json()["results"]
    return answer.headers["x-request-id"], [[hit["id"] for hit in result["hits"]] for result in results]


def judge(found: Any, **body: Any) -> httpx.Response:
    answer = found.post("/feedback", body)
    assert isinstance(answer, httpx.Response)
    return answer


def other(passages: list[dict[str, Any]], ids: list[str]) -> str:
    """A document that was not answered."""
    return next(str(passage["id"]) for passage in passages if passage["id"] not in ids)


def test_an_answer_is_judged_by_its_request_id(found: Any, passages: list[dict[str, Any]]) -> None:
    request_id, (first, second) = searched(found, "open a file", "sort a list")
    right = judge(found, request_id=request_id, relevant=[first[0], first[9]])
    assert (right.status_code, right.json()) == (200, {"found": 2, "expected": 2, "recall": 1.0})
    half = judge(found, request_id=request_id, result=1, relevant=[second[3], other(passages, second)])
    assert half.json() == {"found": 1, "expected": 2, "recall": 0.5}
    assert found.metric("embedship_recall_queries_total", source="feedback") == 2
    assert found.metric("embedship_recall_found_total", source="feedback") == 3
    assert found.metric("embedship_recall_rolling_ratio", source="feedback") == 0.75
    assert found.metric("embedship_recall_queries_total", source="shadow") == 0


def test_an_answer_is_judged_on_ten_hits_whatever_was_asked_for(found: Any) -> None:
    _, (ids,) = searched(found, "open a file")
    short = found.post("/search", {"query": "open a file", "k": 2})
    assert judge(found, request_id=short.headers["x-request-id"], relevant=[ids[7]]).json()["recall"] == 1


def test_a_query_is_judged_with_the_hits_that_were_shown_or_searched_again(
    found: Any, passages: list[dict[str, Any]]
) -> None:
    _, (ids,) = searched(found, "open a file")
    before = found.metric("embedship_texts_total")
    missing = other(passages, ids)
    assert judge(found, query="open a file", relevant=[ids[1], missing]).json()["recall"] == 0.5
    assert judge(found, query="open a file", hits=[missing], relevant=[missing]).json()["recall"] == 1
    assert judge(found, query="open a file", hits=[], relevant=[missing]).json()["recall"] == 0
    # The monitor's own searches are neither the users' texts nor seen as queries.
    assert found.metric("embedship_texts_total") == before
    assert found.metric("embedship_monitor_queries_total") == 1


def test_an_answer_is_judged_once_and_the_oldest_are_forgotten(found: Any) -> None:
    request_id, (ids,) = searched(found, "open a file")
    assert judge(found, request_id=request_id, relevant=ids[:1]).status_code == 200
    again = judge(found, request_id=request_id, relevant=ids[:1])
    assert (again.status_code, "was judged before" in again.json()["error"]) == (404, True)
    old, _ = searched(found, "sort a list")
    for _ in range(2):
        searched(found, *["x"] * 10)
    assert judge(found, request_id=old, relevant=ids[:1]).status_code == 404
    assert found.metric("embedship_rejections_total", reason="unknown_answer") == 2
    assert found.metric("embedship_feedback_answers") == 20


BAD = [
    ({}, 422, "missing required field `relevant`"),
    ({"relevant": []}, 422, "relevant: Expected `array` of length >= 1"),
    ({"relevant": ["KNOWN"] * 101}, 422, "relevant: Expected `array` of length <= 100"),
    ({"relevant": ["KNOWN"]}, 422, "give either `request_id` or `query`"),
    ({"relevant": ["KNOWN"], "query": "a", "request_id": "b"}, 422, "give either `request_id` or `query`"),
    ({"relevant": ["KNOWN"], "request_id": "b", "hits": []}, 422, "hits: give `hits` only with `query`"),
    ({"relevant": ["KNOWN"], "request_id": "never"}, 404, "result 0 of 'never' is not kept"),
    ({"relevant": ["KNOWN", "nobody"], "query": "a"}, 422, "relevant[1]: the index contains no document 'nobody'"),
    ({"relevant": ["KNOWN"], "query": "a", "hits": ["nobody"]}, 422, "hits[0]: the index contains no document"),
    ({"relevant": ["KNOWN"], "query": ""}, 422, "query: Expected `str` of length >= 1"),
    ({"relevant": ["KNOWN"], "query": "b" * 10_001}, 413, "10001 characters"),
    ({"relevant": ["KNOWN"], "query": "a", "result": -1}, 422, "result: Expected `int` >= 0"),
    (
        {"relevant": ["KNOWN"], "query": "a", "hit": []},
        422,
        "unknown field `hit`. The fields of this route are: rel",
    ),
    ({"relevant": ["k" * 2_000_000]}, 413, "larger than 100000 bytes"),
]


@pytest.mark.parametrize(("body", "status", "says"), BAD)
def test_a_wrong_judgement_says_what_to_change_and_counts_nothing(
    shared: Any, passages: list[dict[str, Any]], body: Any, status: int, says: str
) -> None:
    if "relevant" in body:
        body = body | {"relevant": [passages[0]["id"] if each == "KNOWN" else each for each in body["relevant"]]}
    answer = shared.post("/feedback", body)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text
    assert shared.metric("embedship_recall_queries_total", source="feedback") == 0
    announced = shared.ask("GET", "/openapi.json").json()["paths"]["/feedback"]["post"]["responses"]
    assert str(status) in announced


def test_feedback_without_an_index(api: Any) -> None:
    answer = api.post("/feedback", {"relevant": ["a"], "query": "b"})
    assert (answer.status_code, "--index INDEX" in answer.text) == (409, True)


def test_no_text_is_kept_unless_asked_for(fresh: Callable[..., Any], index_folder: Path) -> None:
    for keep, shown in ((0, False), (3, True)):
        found = fresh(index=index_folder, keep_queries=keep)
        request_id, (ids,) = searched(found, "a secret question")
        judge(found, request_id=request_id, relevant=ids[:1])
        judge(found, query="a secret question", relevant=ids[:1])
        page = found.ask("GET", "/monitor").text
        assert ("secret" in page) is shown
        assert found.ask("GET", "/monitor").json()["feedback"]["recall"]["queries"] == 2
