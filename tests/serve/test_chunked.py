"""/search over documents that were cut into chunks, one of them as long as all others together."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from embedship.encoder import Encoder
from embedship.serve import schemas
from embedship.serve.documents.chunking import Chunking
from embedship.serve.indexing.build import IndexOptions, build
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
    return built(bundle, passages, tmp_path_factory.mktemp("chunked"))


def built(bundle: Path, rows: list[dict[str, Any]], folder: Path, with_title: bool = False) -> Path:
    (folder / "corpus.jsonl").write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows))
    options = IndexOptions(chunking=Chunking(tokens=64, overlap=8), with_title=with_title)
    with Encoder.open(bundle) as encoder:
        build(encoder, encoder.variant.name, folder / "corpus.jsonl", folder / "index", options, lambda *_: None)
    return folder / "index"


@pytest.fixture(scope="module")
def found(settings: Settings, chunked: Path) -> Iterator[Asked]:
    with opened(replace(settings, index=chunked)) as asked:
        yield asked


def hits(asked: Any, **request: Any) -> list[schemas.SearchHit]:
    answer = asked.post("/search", request)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=schemas.SearchReply).results[0].hits


def text_of_id(passages: list[dict[str, Any]], id: str) -> str:
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
            assert hit.text == text_of_id(passages, hit.id)[hit.chunk.start : hit.chunk.end]
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
    assert found.service.monitor.observer.flush(120)
    right, expected = (found.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert right == expected == 10


WRITE = "a-write-key-of-the-tests"
QUEUE = 80


def put(asked: Any, rows: list[dict[str, Any]], delete: tuple[str, ...] = ()) -> Any:
    documents = [{**dict(each), "metadata": {k: each[k] for k in ("n", "tag") if k in each}} for each in rows]
    for each in documents:
        each.pop("n", None), each.pop("tag", None)
    headers = {"authorization": f"Bearer {WRITE}"}
    return asked.ask("PUT", "/documents", json={"documents": documents, "delete": list(delete)}, headers=headers)


class Changed(NamedTuple):
    """A server whose documents have changed, and one over an index that was built of what it holds now."""

    asked: Any
    anew: Any
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def changed(
    settings: Settings,
    bundle: Path,
    chunked: Path,
    passages: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Changed]:
    folder = tmp_path_factory.mktemp("changed")
    (folder / "write").write_text(WRITE)
    index = shutil.copytree(chunked, folder / "index")
    more = [entry.body[:400] for entry in entries(240)[40:]]
    texts = ["\n\n".join(more[start : start + 33])[:9_900] for start in range(0, 198, 33)]
    new = [{"id": f"new{n}", "text": text, "n": 100 + n, "tag": ["new"]} for n, text in enumerate(texts)]
    longer = {**passages[2], "text": f"{passages[2]['text']} {more[-1]} {more[-2]}"}
    shorter = {**passages[-1], "text": f"A preface. {passages[-1]['text'][:3000]}"}
    settings = replace(settings, queue_texts=QUEUE)
    with opened(replace(settings, index=index, writable=True, write_key_file=folder / "write")) as asked:
        most = before = asked.metric("embedship_index_rows")
        for rows, delete, reply in (
            ([*new, longer], ("unknown",), {"new": 6, "replaced": 1, "unchanged": 0, "deleted": 0, "truncated": []}),
            ([shorter, *new[:1]], (passages[4]["id"], "new5"),
             {"new": 0, "replaced": 1, "unchanged": 1, "deleted": 2, "truncated": []}),
        ):  # fmt: skip
            answer = put(asked, rows, delete)
            assert answer.json() == reply
            most = max(most, asked.metric("embedship_index_rows"))
        assert most > before + QUEUE, "the first were more chunks than may wait"
        kept = [row for row in passages[:-1] if row not in (passages[2], passages[4])]
        wanted = {row["id"]: row for row in (*kept, longer, shorter, *new[:5])}
        first = asked.service.collection.backend.resolve_ids(list(wanted))
        ordered = sorted(wanted.values(), key=lambda row: first[row["id"]])
        with opened(replace(settings, index=built(bundle, ordered, tmp_path_factory.mktemp("anew")))) as anew:
            yield Changed(asked, anew, ordered)


@pytest.mark.parametrize("compacted", [False, True])
def test_after_changes_it_finds_what_an_index_built_anew_does(changed: Changed, compacted: bool) -> None:
    if compacted:
        assert changed.asked.service.collection.backend.folder.compact()
    asked: list[dict[str, Any]] = [
        {},
        {"per_document": False},
        {"filter": {"tag": "new"}},
        {"filter": {"n": {"lt": 9}}},
    ]
    for row in changed.rows[::9]:
        for more in asked:
            for mode in ("dense", "keyword", "hybrid"):
                request = {"query": row["text"][:150], "mode": mode, "k": 64, **more}
                mine, its = hits(changed.asked, **request), hits(changed.anew, **request)
                # Of int8 vectors: encoded in other company, on some CPUs they lie some thousandths elsewhere.
                assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in its], abs=1e-2)
                if more.get("per_document", True):
                    assert {(hit.id, hit.chunk) for hit in mine} == {(hit.id, hit.chunk) for hit in its}
                    assert len({hit.id for hit in mine}) == len(mine)
                for hit in mine:
                    assert hit.chunk is not msgspec.UNSET
                    assert hit.text == text_of_id(changed.rows, hit.id)[hit.chunk.start : hit.chunk.end]
                assert row["id"] in {hit.id for hit in mine[:6]} or "filter" in more


def test_after_changes_a_document_is_all_of_its_text(changed: Changed) -> None:
    for id in ("new1", LONG, changed.rows[2]["id"]):
        answer = changed.asked.ask("GET", f"/documents/{id}").json()
        assert answer["text"] == text_of_id(changed.rows, id)
    assert changed.asked.ask("GET", "/documents/new5").status_code == 404


def test_after_changes_documents_and_rows_are_counted_apart(changed: Changed) -> None:
    mine, its = (each.ask("GET", "/info").json()["index"] for each in (changed.asked, changed.anew))
    assert mine == its
    assert mine["size"] == len(changed.rows) == 45
    assert mine["rows"] > mine["size"]
    assert changed.asked.metric("embedship_index_documents") == mine["size"]
    assert changed.asked.metric("embedship_index_rows") == mine["rows"]


@pytest.mark.parametrize("per_document", [True, False])
def test_after_changes_feedback_knows_the_documents(changed: Changed, per_document: bool) -> None:
    request = {"query": text_of_id(changed.rows, "new2")[300:500], "per_document": per_document}
    answer = changed.asked.post("/search", request)
    found = [hit["id"] for hit in answer.json()["results"][0]["hits"]]
    right = ["new2", *{*found[:3]} - {"new2"}]
    judged = changed.asked.post("/feedback", {"request_id": answer.headers["x-request-id"], "relevant": right})
    assert judged.json() == {"found": len(right), "expected": len(right), "recall": 1.0}


def test_after_changes_shadow_recall_is_that_of_what_is_there(
    fresh: Callable[..., Asked], chunked: Path, passages: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "write").write_text(WRITE)
    index = Path(shutil.copytree(chunked, tmp_path / "index"))
    asked = fresh(index=index, shadow_rate=1.0, writable=True, write_key_file=tmp_path / "write")
    assert put(asked, [{"id": "new", "text": " ".join([passages[2]["text"]] * 4)}], (LONG,)).status_code == 200
    assert "new" in {hit.id for hit in hits(asked, query=passages[2]["text"])}
    assert asked.service.monitor.observer.flush(120)
    right, expected = (asked.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert right == expected == 10


def test_a_title_that_leaves_no_room_is_refused(
    fresh: Callable[..., Asked], bundle: Path, passages: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "write").write_text(WRITE)
    index = built(bundle, passages[:4], tmp_path, with_title=True)
    asked = fresh(index=index, writable=True, write_key_file=tmp_path / "write")
    answer = put(asked, [{"id": "new", "text": "word " * 90, "title": "title " * 60}])
    assert answer.status_code == 422
    assert "takes 62 of the 64 tokens of a chunk" in answer.json()["error"]
    assert asked.metric("embedship_index_documents") == 4
    titled = {"id": "new", "text": "word " * 90, "title": "title " * 20}
    assert put(asked, [titled]).json()["new"] == 1
    assert put(asked, [titled]).json()["unchanged"] == 1
    assert asked.metric("embedship_index_rows") > 6


def test_info_counts_documents_and_rows(found: Any) -> None:
    index = found.ask("GET", "/info").json()["index"]
    assert index["size"] == 41
    assert index["rows"] > 100
    assert (index["chunking"], index["exact"]) == ({"tokens": 64, "overlap": 8}, "float16")
