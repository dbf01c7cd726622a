"""/search over a real index of standard-library documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedship.errors import UnsafeError
from embedship.serve import schemas
from embedship.serve.house import House
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


def test_searches_reach_the_monitor_and_are_compared_with_an_exact_search(found: Any) -> None:
    found.post("/search", {"query": ["one", "two"]})
    assert found.service.watch.observer.flush(30)
    assert found.metric("embedship_monitor_queries_total") == 2
    right, expected = (found.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert right == expected == 20
    assert found.metric("embedship_search_seconds_count") == 1
    assert 0 < found.metric("embedship_recall_baseline_ratio", source="shadow") <= 1


def test_recall_at_ten_is_known_of_clients_that_ask_for_three(found: Any) -> None:
    (result,) = reply(found.post("/search", {"query": "one", "k": 3})).results
    assert len(result.hits) == 3
    assert found.service.watch.observer.flush(30)
    assert found.metric("embedship_recall_expected_total", source="shadow") == 10


def test_scores_are_cosines_for_a_model_that_does_not_normalise(found: Any, passages: list[dict[str, Any]]) -> None:
    shelf = found.service.shelf
    unit = found.service.encoder.encode([passages[3]["text"]])
    expected, long = shelf.find(unit, 10), shelf.find(unit * 6.5, 10)
    assert long.hits[0][0].score == pytest.approx(1, abs=2e-3)
    assert long.rows.tolist() == expected.rows.tolist() == shelf.exact(unit * 6.5, 10).tolist()


def test_the_hits_of_one_answer_are_bounded(found: Any) -> None:
    answer = found.post("/search", {"query": ["x"] * 11, "k": 1000})
    assert answer.status_code == 413
    assert "at most 10000 hits a request" in answer.text


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
        House.open(Settings(bundle=bundle, index=copy))
