"""/search over documents that were cut into chunks, one of them as long as all others together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from embedship.encoder import Encoder
from embedship.serve import schemas
from embedship.serve.index.build import Wishes, build
from embedship.serve.index.chunks import Chunking
from embedship.serve.settings import Settings
from embedship.stdlib_docs import entries

from .conftest import Asked, opened

LONG = "everything"


@pytest.fixture(scope="module")
def passages() -> list[dict[str, Any]]:
    """Forty documents and one that holds them all: whatever is asked, its chunks are as near as anything else."""
    rows = [{"id": e.id, "text": e.body[:400], "n": n} for n, e in enumerate(entries(40))]
    whole = "\n\n".join(3 * [row["text"] for row in rows])
    return [*rows, {"id": LONG, "text": whole, "title": "All of it", "n": 99, "tag": ["long"]}]


@pytest.fixture(scope="module")
def chunked(bundle: Path, passages: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chunked")
    (folder / "corpus.jsonl").write_bytes(b"\n".join(msgspec.json.encode(row) for row in passages))
    wishes = Wishes(chunking=Chunking(tokens=64, overlap=8))
    with Encoder.open(bundle) as encoder:
        build(encoder, encoder.variant.name, folder / "corpus.jsonl", folder / "index", wishes, lambda *_: None)
    return folder / "index"


@pytest.fixture(scope="module")
def found(settings: Settings, chunked: Path) -> Iterator[Asked]:
    with opened(replace(settings, index=chunked)) as asked:
        yield asked


def hits(asked: Any, **request: Any) -> list[schemas.SearchHit]:
    answer = asked.post("/search", request)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=schemas.SearchReply).results[0].hits


def of(passages: list[dict[str, Any]], id: str) -> str:
    return next(str(row["text"]) for row in passages if row["id"] == id)


@pytest.mark.parametrize("mode", ["dense", "keyword", "hybrid"])
@pytest.mark.parametrize("per_document", [True, False])
def test_a_hit_names_document_chunk_and_span(
    found: Any, passages: list[dict[str, Any]], mode: str, per_document: bool
) -> None:
    for passage in passages[:5]:
        answer = hits(found, query=passage["text"][:150], mode=mode, per_document=per_document)
        assert len(answer) == 10
        assert [hit.score for hit in answer] == sorted((hit.score for hit in answer), reverse=True)
        assert passage["id"] in {hit.id for hit in answer[:6]}
        for hit in answer:
            assert hit.chunk is not msgspec.UNSET
            assert hit.text == of(passages, hit.id)[hit.chunk.start : hit.chunk.end]
        numbers = {(hit.id, hit.chunk.number) for hit in answer if hit.chunk is not msgspec.UNSET}
        assert len(numbers) == 10
        assert len({hit.id for hit in answer}) == 10 or not per_document


def test_k_hits_are_k_documents_whatever_one_of_them_owns(found: Any, passages: list[dict[str, Any]]) -> None:
    for k in (1, 10, 41, 60):
        answer = hits(found, query=passages[7]["text"], k=k)
        assert len({hit.id for hit in answer}) == len(answer) == min(k, 41)
        assert len(hits(found, query=passages[7]["text"], k=k, per_document=False)) == k


def test_the_best_chunk_stands_for_its_document(found: Any, passages: list[dict[str, Any]]) -> None:
    query = passages[3]["text"][:150]
    best: dict[str, schemas.SearchHit] = {}
    for hit in hits(found, query=query, k=1000, per_document=False):
        best.setdefault(hit.id, hit)
    answer = hits(found, query=query, k=41)
    assert [(hit.id, hit.chunk, pytest.approx(hit.score)) for hit in answer] == [
        (hit.id, hit.chunk, hit.score) for hit in best.values()
    ]


@pytest.mark.parametrize("mode", ["dense", "keyword", "hybrid"])
def test_a_filter_is_of_documents(found: Any, passages: list[dict[str, Any]], mode: str) -> None:
    asked = {"query": passages[0]["text"][:150], "mode": mode, "k": 20}
    assert [hit.id for hit in hits(found, **asked, filter={"tag": "long"})] == [LONG]
    several = hits(found, **asked, filter={"tag": "long"}, per_document=False)
    assert len(several) > 5
    assert {hit.id for hit in several} == {LONG}
    assert LONG not in {hit.id for hit in hits(found, **asked, filter={"n": {"lt": 40}})}


def test_a_hybrid_score_is_of_documents(found: Any, passages: list[dict[str, Any]]) -> None:
    for hit in hits(found, query=passages[5]["text"][:150], mode="hybrid", k=41):
        parts = [part for part in (hit.dense, hit.keyword) if part is not msgspec.UNSET]
        assert hit.score == pytest.approx(sum(1 / (60 + part.rank) for part in parts), rel=1e-6)


@pytest.mark.parametrize("per_document", [True, False])
def test_feedback_counts_documents(found: Any, passages: list[dict[str, Any]], per_document: bool) -> None:
    """Many chunks of one right document among the hits are one right answer."""
    request = {"query": passages[3]["text"], "per_document": per_document}
    answer = found.post("/search", request)
    judged = found.post(
        "/feedback", {"request_id": answer.headers["x-request-id"], "relevant": [LONG, passages[3]["id"]]}
    )
    assert judged.json() == {"found": 2, "expected": 2, "recall": 1.0}
    again = {"query": passages[3]["text"], "relevant": [LONG], "hits": [LONG, passages[1]["id"]]}
    assert found.post("/feedback", again).json()["found"] == 1


def test_recall_of_the_vectors_is_that_of_chunks(
    fresh: Callable[..., Asked], chunked: Path, passages: list[dict[str, Any]]
) -> None:
    found = fresh(index=chunked, shadow_rate=1.0)
    hits(found, query=passages[2]["text"])
    assert found.service.watch.observer.flush(30)
    right, expected = (found.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert right == expected == 10


def test_info_counts_documents_and_rows(found: Any) -> None:
    index = found.ask("GET", "/info").json()["index"]
    assert index["size"] == 41
    assert index["rows"] > 100
    assert (index["chunking"], index["exact"]) == ({"tokens": 64, "overlap": 8}, "float16")
