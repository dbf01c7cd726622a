"""/search over a real index of standard-library documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedship.encoder import Encoder
from embedship.errors import UnsafeError
from embedship.serve import schemas
from embedship.serve.index import IndexKind
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.live import backend
from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings


@pytest.fixture
def found(fresh: Callable[..., Any], index_folder: Path) -> Iterator[Any]:
    return fresh(index=index_folder, shadow_rate=1.0)


def reply(answer: Any) -> schemas.SearchReply:
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=schemas.SearchReply)


def test_a_document_is_the_best_hit_for_its_own_text(found: Any, passages: list[dict[str, Any]]) -> None:
    for passage in passages[:10]:
        (result,) = reply(found.post("/search", {"query": passage["text"], "k": 3})).results
        best = result.hits[0]
        assert (best.id, best.text, best.title) == (passage["id"], passage["text"], passage["title"])
        assert best.score > 0.99
        assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
        assert best.metadata == passage.get("metadata", msgspec.UNSET)


def test_several_queries_are_answered_in_their_order(found: Any, passages: list[dict[str, Any]]) -> None:
    texts = [passage["text"] for passage in passages[20:40]]
    answer = reply(found.post("/search", {"query": texts}))
    assert [result.hits[0].id for result in answer.results] == [passage["id"] for passage in passages[20:40]]
    assert all(len(result.hits) == 10 for result in answer.results)
    assert answer.usage.prompt_tokens == sum(found.service.encoder.tokenizer(texts).lengths)


def test_asking_for_more_than_there_is_gives_what_there_is(found: Any, passages: list[dict[str, Any]]) -> None:
    (result,) = reply(found.post("/search", {"query": "x", "k": 500})).results
    assert len(result.hits) == len(passages)


def test_hits_with_too_much_text_for_one_response_are_refused(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 hits of 200,000 characters would be 2 GB."""
    monkeypatch.setattr(backend, "_ROWS_AT_ONCE", 2)
    monkeypatch.setattr(backend, "_MAX_HIT_CHARACTERS", 2_000)
    assert reply(found.post("/search", {"query": "x", "k": 3})).results
    answer = found.post("/search", {"query": "x", "k": 50})
    assert answer.status_code == 413
    assert "lower k" in answer.json()["error"]


def test_searches_reach_the_monitor_and_are_compared_with_an_exact_search(found: Any) -> None:
    found.post("/search", {"query": ["one", "two"]})
    assert found.service.monitor.observer.flush(120)
    assert found.metric("embedship_monitor_queries_total") == 2
    right, expected = (found.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert right == expected == 20
    assert found.metric("embedship_search_seconds_count") == 1
    assert 0 < found.metric("embedship_recall_baseline_ratio", source="shadow") <= 1


def test_recall_at_ten_is_known_of_clients_that_ask_for_three(found: Any) -> None:
    (result,) = reply(found.post("/search", {"query": "one", "k": 3})).results
    assert len(result.hits) == 3
    assert found.service.monitor.observer.flush(120)
    assert found.metric("embedship_recall_expected_total", source="shadow") == 10


def test_scores_are_cosines_for_a_model_that_does_not_normalise(found: Any, passages: list[dict[str, Any]]) -> None:
    collection = found.service.collection
    unit = found.service.encoder.encode([passages[3]["text"]])
    expected, long = (
        collection.backend.find(unit, 10, DEFAULT_SEARCH_PARAMS),
        collection.backend.find(unit * 6.5, 10, DEFAULT_SEARCH_PARAMS),
    )
    assert long.hits[0][0].score == pytest.approx(1, abs=2e-3)
    assert long.rows.tolist() == expected.rows.tolist() == collection.backend.exact(unit * 6.5, 10).tolist()


def test_the_hits_of_one_answer_are_bounded(found: Any) -> None:
    answer = found.post("/search", {"query": ["x"] * 11, "k": 1000})
    assert answer.status_code == 413
    assert "the maximum is 10000 hits per request" in answer.text


def test_info_describes_the_index(found: Any, passages: list[dict[str, Any]]) -> None:
    info = msgspec.json.decode(found.ask("GET", "/info").content, type=schemas.Info)
    assert info.index is not None
    assert (info.index.size, info.index.kind) == (len(passages), "flat")


def test_a_damaged_index_keeps_the_server_from_starting(bundle: Path, index_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "index"
    copy.mkdir()
    for file in index_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damaged = copy / "documents.sqlite"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(UnsafeError, match=r"documents\.sqlite"):
        ServerState.open(Settings(bundle=bundle, index=copy))


def test_a_word_that_one_document_has_finds_it(found: Any, passages: list[dict[str, Any]]) -> None:
    answer = found.post("/search", {"query": passages[0]["title"], "mode": "keyword", "k": 3})
    (result,) = reply(answer).results
    assert result.hits[0].id == passages[0]["id"]
    assert result.hits[0].dense is msgspec.UNSET
    assert reply(answer).usage.prompt_tokens == 0
    (nothing,) = reply(found.post("/search", {"query": "?! xyzzyq", "mode": "keyword"})).results
    assert nothing.hits == []


def test_a_hybrid_score_is_explained_by_its_parts(found: Any, passages: list[dict[str, Any]]) -> None:
    asked = {"query": passages[5]["text"], "k": 20}
    dense, keyword, hybrid = (
        reply(found.post("/search", {**asked, "mode": mode})).results[0].hits for mode in ("dense", "keyword", "hybrid")
    )
    assert len(hybrid) == 20
    for hit in hybrid:
        parts = [part for part in (hit.dense, hit.keyword) if part is not msgspec.UNSET]
        assert hit.score == pytest.approx(sum(1 / (60 + part.rank) for part in parts), rel=1e-6)
        for part, alone in ((hit.dense, dense), (hit.keyword, keyword)):
            if part is not msgspec.UNSET and part.rank <= len(alone):
                assert (alone[part.rank - 1].id, alone[part.rank - 1].score) == (hit.id, pytest.approx(part.score))


@pytest.mark.parametrize("mode", ["dense", "keyword", "hybrid"])
def test_a_filter_holds_in_every_mode(found: Any, passages: list[dict[str, Any]], mode: str) -> None:
    asked = {"query": passages[0]["text"], "mode": mode, "k": 50}
    (result,) = reply(found.post("/search", {**asked, "filter": {"kind": {"in": ["first", "x"]}}})).results
    assert [hit.id for hit in result.hits] == [passages[0]["id"]]
    (nothing,) = reply(found.post("/search", {**asked, "filter": {"kind": "second"}})).results
    assert nothing.hits == []
    unknown = found.post("/search", {**asked, "filter": {"colour": "red"}})
    assert unknown.status_code == 422
    assert "no document has the metadata field 'colour'" in unknown.text
    assert found.post("/search", {**asked, "filter": {"kind": {"near": 1}}}).status_code == 422


def test_recall_is_judged_by_vectors_alone(found: Any, passages: list[dict[str, Any]]) -> None:
    """What words or a filter chose is none of what an exact search of all vectors finds, and is no fall."""
    texts = [passage["text"] for passage in passages[:5]]
    found.post("/search", {"query": texts, "mode": "hybrid"})
    found.post("/search", {"query": texts, "mode": "keyword"})
    found.post("/search", {"query": texts, "filter": {"kind": "first"}})
    assert found.service.monitor.observer.flush(120)
    right, expected = (found.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert right == expected == 50
    assert found.metric("embedship_monitor_queries_total") == 10


def test_a_hybrid_answer_can_be_judged(found: Any, passages: list[dict[str, Any]]) -> None:
    answer = found.post("/search", {"query": passages[3]["text"], "mode": "hybrid"})
    judged = found.post("/feedback", {"request_id": answer.headers["x-request-id"], "relevant": [passages[3]["id"]]})
    assert judged.json() == {"found": 1, "expected": 1, "recall": 1.0}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"effort": {"oversample": 20}}, "effort oversample: this index does not have this setting"),
        ({"effort": {"oversample": 201}}, "effort.oversample: Expected `int` <= 200"),
        ({"effort": {"nprobe": 1}}, "effort nprobe: this index does not have this setting"),
        ({"effort": {"ef": 1}}, "effort: Object contains unknown field `ef`"),
        ({"effort": {"oversample": 20}, "mode": "keyword"}, "effort: a keyword search has no such parameter"),
    ],
)
def test_an_effort_that_would_change_nothing_is_refused(found: Any, body: dict[str, Any], sentence: str) -> None:
    answer = found.post("/search", {"query": "stroke", **body})
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


@pytest.fixture
def tunable(bundle: Path, passages: list[dict[str, Any]], tmp_path: Path) -> Path:
    """An index with a knob."""
    lines = tmp_path / "corpus.jsonl"
    lines.write_bytes(b"\n".join(msgspec.json.encode(row) for row in passages))
    with Encoder.open(bundle) as encoder:
        build(encoder, encoder.variant.name, lines, tmp_path / "index", IndexOptions(IndexKind.BINARY), lambda *_: None)
    return tmp_path / "index"


def test_an_effort_is_that_of_one_search(
    fresh: Callable[..., Any], tunable: Path, passages: list[dict[str, Any]]
) -> None:
    asked = fresh(index=tunable)
    query = {"query": [passage["title"] for passage in passages], "k": 5}
    tuned, least = (reply(asked.post("/search", {**query, "effort": {"oversample": n}})).results for n in (200, 1))
    assert reply(asked.post("/search", query)).results == tuned, "60 documents are all candidates either way"
    assert least != tuned, "10 candidates of 60 cannot hold the best five of every query"


def test_what_an_effort_misses_is_no_fault_of_the_index(
    fresh: Callable[..., Any], tunable: Path, passages: list[dict[str, Any]]
) -> None:
    """A client that asks for little must not page: its searches are not held against the index's own recall."""
    asked = fresh(index=tunable, shadow_rate=1.0)
    query = {"query": [passage["title"] for passage in passages]}
    for effort in ({"effort": {"oversample": 1}}, {}):
        reply(asked.post("/search", {**query, **effort}))
    assert asked.service.monitor.observer.flush(120)
    right, expected = (asked.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert expected == 10 * len(passages), "the second alone was compared"
    assert right >= 0.98 * expected


@pytest.mark.parametrize("mode", ["dense", "keyword", "hybrid"])
@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({f"f{n}": 1 for n in range(501)}, "501 fields; at most 64 are allowed"),
        ({f"f{n}": {"in": list(range(1000))} for n in range(5)}, "5,000 values in lists"),
    ],
)
def test_a_filter_has_a_bound(found: Any, wanted: dict[str, Any], sentence: str, mode: str) -> None:
    """SQLite takes 500 parts of a statement: more were answered with 500."""
    answer = found.post("/search", {"query": "a", "mode": mode, "filter": wanted})
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


def test_the_largest_filter_is_answered(found: Any) -> None:
    """Of the field that there is: the others would be refused as unknown."""
    values = [f"v{n}" for n in range(1000)]
    assert found.post("/search", {"query": "a", "filter": {"kind": {"in": values}}}).status_code == 200
    limits = {"in": ["first"], "gte": "a", "lte": "z"}
    assert found.post("/search", {"query": "a", "mode": "keyword", "filter": {"kind": limits}}).status_code == 200
