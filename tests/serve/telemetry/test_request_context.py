"""What a request is called, and how its time is told: the pure part, and what a service answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedship.serve.telemetry.request_context import RequestContext, RequestPhase

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
LONG = {"inputs": ["a rather long text " * 60] * 60}


@pytest.mark.parametrize("given", ["a", "5f1d0c7e9a2b4c63", "Root=1-67891233-abcdef012345678912345678", "a" * 128])
def test_an_id_that_is_one_is_kept(given: str) -> None:
    assert (
        RequestContext([(b"host", b"x"), (b"x-request-id", given.encode()), (b"traceparent", PARENT.encode())]).id
        == given
    )


@pytest.mark.parametrize(
    "given", [b"", b" ", b"a b", b"a\nb", b'a"', b"a" * 129, b"\xff\xfe", b"-a", "ä".encode(), b"a\n"]
)
def test_what_is_no_id_is_ignored_and_one_is_made(given: bytes) -> None:
    made = {RequestContext([(b"x-request-id", given)]).id for _ in range(10)}
    assert len(made) == 10
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in made)


@pytest.mark.parametrize("given", [PARENT, f"01-{TRACE}-b7ad6b7169203331-00", f"01-{TRACE}-b7ad6b7169203331-00-more"])
def test_a_trace_begins_the_ids_of_its_requests(given: str) -> None:
    made = [RequestContext([(b"traceparent", given.encode())]) for _ in range(2)]
    assert {visit.trace for visit in made} == {TRACE}
    assert all(re.fullmatch(f"{TRACE}-[0-9a-f]{{16}}", visit.id) for visit in made)
    assert made[0].id != made[1].id


@pytest.mark.parametrize(
    "given",
    ["", PARENT.upper(), f"{PARENT}-more", f"ff{PARENT[2:]}", f"00-{'0' * 32}-b7ad6b7169203331-01",
     f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-b7ad6b7169203331", f"{PARENT}\n"],
)  # fmt: skip
def test_what_is_no_trace_is_none(given: str) -> None:
    visit = RequestContext([(b"traceparent", given.encode())])
    assert visit.trace is None
    assert re.fullmatch("[0-9a-f]{16}", visit.id)


def test_phases_follow_one_another_and_those_of_one_name_add_up() -> None:
    visit = RequestContext([])
    start = visit.began
    for phase, seconds in ((RequestPhase.READ, 1), (RequestPhase.SEARCH, 3), (RequestPhase.READ, 6)):
        visit.mark(phase, start + seconds)
    assert visit.seconds() == pytest.approx({RequestPhase.READ: 4, RequestPhase.SEARCH: 2})
    assert [(phase, began - start, ended - start) for phase, began, ended in visit.spans()] == [
        (RequestPhase.READ, 0, pytest.approx(1)), (RequestPhase.SEARCH, pytest.approx(1), pytest.approx(3)),
        (RequestPhase.READ, pytest.approx(3), pytest.approx(6)),
    ]  # fmt: skip
    name, timing = visit.headers()
    assert name == (b"x-request-id", visit.id.encode())
    assert re.fullmatch(
        rb"read;dur=1000\.000, search;dur=2000\.000, read;dur=3000\.000, total;dur=\d+\.\d{3}", timing[1]
    )


def timing(answer: Any) -> dict[str, float]:
    """As the specification has it: metrics with commas between, each a token and parameters; `dur` in milliseconds."""
    found = re.findall(r"(?:^|, )([a-z]+);dur=(\d+\.\d{3})(?=, |$)", answer.headers["server-timing"])
    assert len(found) == answer.headers["server-timing"].count(",") + 1
    return {name: float(milliseconds) for name, milliseconds in found}


EMBEDDING = [
    ("/v1/embeddings", {"input": "a text"}),
    ("/embed", {"inputs": ["a text", "another"]}),
    ("/", {"inputs": "a text"}),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
    ("/embeddings", {"input": "a text"}),
    ("/v2/embed", {"texts": ["a text"], "input_type": "search_query"}),
    ("/v1/encode", {"texts": ["a text"]}),
]


def test_the_page_shows_the_header_as_it_is(api: Any) -> None:
    (shown,) = re.findall(r"^    Server-Timing: (.*)$", PAGE.read_text(), re.MULTILINE)
    told = api.post("/embed", {"inputs": "a"}).headers["server-timing"]
    assert re.sub(r"\d+\.\d+", "N", shown) == re.sub(r"\d+\.\d+", "N", told)


@pytest.mark.parametrize(("path", "body"), EMBEDDING)
def test_every_embedding_route_tells_its_time(api: Any, path: str, body: Any) -> None:
    before = [api.metric(f"embedship_{name}_seconds_count") for name in ("tokenise", "serialise")]
    told = timing(api.post(path, body))
    assert list(told) == ["read", "tokenise", "queue", "inference", "serialise", "total"]
    total = told.pop("total")
    assert sum(told.values()) <= total + 0.005, "but for what was rounded"
    assert told["inference"] > 0
    after = [api.metric(f"embedship_{name}_seconds_count") for name in ("tokenise", "serialise")]
    assert after == [each + 1 for each in before]


@pytest.fixture(scope="module")
def found(settings: Any, index_folder: Any) -> Any:
    from dataclasses import replace

    from ..conftest import opened

    with opened(replace(settings, index=index_folder)) as asked:
        yield asked


def test_a_search_tells_its_time(found: Any) -> None:
    for mode, phases in (("dense", ["tokenise", "queue", "inference", "search"]), ("keyword", ["search"])):
        told = timing(found.post("/search", {"query": "open a file", "mode": mode}))
        assert list(told) == ["read", *phases, "serialise", "total"]


def test_a_request_that_is_late_tells_where(fresh: Callable[..., Any]) -> None:
    api = fresh(streams=1)
    before = {reason: api.metric("embedship_failures_total", reason=reason) for reason in ("engine", "internal")}
    answer = api.ask("POST", "/embed", json=LONG, headers={"x-request-timeout-ms": "1"})
    assert answer.status_code == 504
    assert list(timing(answer)) in (["read", "total"], ["read", "tokenise", "queue", "total"])
    assert api.metric("embedship_rejections_total", reason="expired") == 1
    assert {reason: api.metric("embedship_failures_total", reason=reason) for reason in before} == before


def test_what_has_no_phases_has_only_an_id(api: Any) -> None:
    answer = api.ask("GET", "/health", headers={"x-request-id": "probe-1"})
    assert answer.headers["x-request-id"] == "probe-1"
    assert "server-timing" not in answer.headers


ERRORS = [
    ("/v1/embeddings", {"input": [1]}, "error.request_id"),
    ("/embeddings", {"input": [1]}, "error.request_id"),
    ("/embed", {"inputs": [1]}, "request_id"),
    ("/search", {}, "request_id"),
    ("/v2/embed", {}, "id"),
    ("/nowhere", {}, "request_id"),
]


@pytest.mark.parametrize(("path", "body", "where"), ERRORS)
def test_an_error_names_its_request(api: Any, path: str, body: Any, where: str) -> None:
    answer = api.ask("POST", path, json=body, headers={"x-request-id": "mine.1"})
    assert answer.status_code >= 400
    told = answer.json()
    for key in where.split("."):
        told = told[key]
    assert told == answer.headers["x-request-id"] == "mine.1"


def test_feedback_takes_the_clients_own_id_unless_it_is_ambiguous(found: Any, passages: list[dict[str, Any]]) -> None:
    def asked(query: str) -> str:
        answer = found.ask("POST", "/search", json={"query": query}, headers={"x-request-id": "from-my-gateway"})
        assert answer.headers["x-request-id"] == "from-my-gateway"
        return str(answer.json()["results"][0]["hits"][0]["id"])

    best = asked("open a file")
    assert asked("open a file") == best  # sent again, as a proxy does
    judgement = {"request_id": "from-my-gateway", "relevant": [best]}
    assert found.post("/feedback", judgement).json()["recall"] == 1
    asked("sort a list of numbers")
    refused = found.post("/feedback", judgement)
    assert refused.status_code == 404
    assert found.metric("embedship_recall_queries_total", source="feedback") == 1
