"""The server over a collection: what a client sees of it, also when Milvus goes away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.encoder import Encoder
from embedship.serve.indexing.build import IndexOptions
from embedship.serve.indexing.milvus import load
from embedship.serve.milvus.backend import MilvusBackend
from embedship.serve.milvus.connection import QUICK_SECONDS, MilvusConnection
from embedship.serve.search.address import Address
from embedship.serve.search.backend import BackendUnavailable
from embedship.serve.settings import Settings

from ...embedship.transfer.wire import Wire
from ..conftest import Asked, opened
from .conftest import serving

At = Callable[[str], Address]
KEY = {"authorization": "Bearer a-write-key-of-the-tests"}
GOUT = {"id": "gout", "text": "Gout is treated with colchicine.", "title": "Gout", "metadata": {"kind": "disease"}}


@pytest.fixture(scope="module")
def corpus(passages: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, passages)))
    return path


@pytest.fixture(scope="module")
def filled(bundle: Path, at: At, corpus: Path) -> Callable[[str], Address]:
    """Fill a collection with the passages that `index_folder` holds, too."""

    def filled(name: str) -> Address:
        with Encoder.open(Bundle.open(bundle)) as encoder:
            load(encoder, encoder.variant.name, corpus, at(name), IndexOptions(), lambda *_: None)
        return at(name)

    return filled


@pytest.fixture(scope="module")
def keyed(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Address], Settings]:
    path = tmp_path_factory.mktemp("keys") / "write"
    path.write_text(KEY["authorization"].split()[1])
    return lambda index: replace(
        settings, index=index, writable=True, write_key_file=path, shadow_rate=1.0, shadow_share=1.0
    )


@pytest.fixture(scope="module")
def asked(filled: Callable[[str], Address], keyed: Callable[[Address], Settings]) -> Iterator[Asked]:
    with opened(keyed(filled("shared"))) as asked:
        yield asked


@pytest.fixture(scope="module")
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


@pytest.fixture(scope="module")
def behind(filled: Callable[[str], Address], keyed: Callable[[Address], Settings], wire: Wire) -> Iterator[Asked]:
    """A service that reaches its collection through the wire."""
    with opened(keyed(Address(f"http://127.0.0.1:{wire.port}", filled("behind").collection))) as asked:
        yield asked


def eventually(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Asked again and again while the answer is 503, as its Retry-After says."""
    end = time.monotonic() + 20
    while (answer := ask()).status_code == 503:
        assert time.monotonic() < end, "it did not come back"
        threading.Event().wait(0.05)
    return answer


def search(asked: Asked, query: str, **more: Any) -> list[dict[str, Any]]:
    answer = asked.post("/search", {"query": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["hits"]


def put(asked: Asked, documents: list[Any], delete: tuple[str, ...] = ()) -> httpx.Response:
    return asked.ask("PUT", "/documents", json={"documents": documents, "delete": list(delete)}, headers=KEY)


def test_it_answers_as_a_folder_does(
    asked: Asked, settings: Settings, index_folder: Path, passages: list[dict[str, Any]]
) -> None:
    """Hit for hit and score for score; keywords apart, of which each engine has its own idea."""
    with opened(replace(settings, index=index_folder)) as folder:
        for passage in passages[::6]:
            there, here = (search(each, passage["title"], k=10) for each in (asked, folder))
            assert [{**hit, "score": 0} for hit in there] == [{**hit, "score": 0} for hit in here]
            assert [hit["score"] for hit in there] == pytest.approx([hit["score"] for hit in here], abs=1e-5)
    (first,) = search(asked, "anything", filter={"kind": "first"})
    assert first["id"] == passages[0]["id"]
    (both,) = search(asked, passages[0]["text"], mode="hybrid", filter={"kind": "first"})
    assert (both["id"], both["dense"]["rank"], both["keyword"]["rank"]) == (passages[0]["id"], 1, 1)
    unknown = asked.post("/search", {"query": "x", "filter": {"colour": "red"}})
    assert (unknown.status_code, "no document has" in unknown.text) == (422, True)
    info = asked.ask("GET", "/info").json()["index"]
    assert (info["size"], info["rows"], info["kind"], info["chunking"]) == (60, 60, "flat", None)
    assert asked.metric("embedship_index_documents") == 60
    many = asked.post("/search", {"query": ["a", "b", "c"], "k": 5}).json()["results"]
    assert [len(result["hits"]) for result in many] == [5, 5, 5]


def test_shadow_recall_is_measured_there(asked: Asked) -> None:
    counts = [f"embedship_recall_{name}_total" for name in ("found", "expected")]
    assert asked.service.monitor.observer.flush(20)
    before = [asked.metric(name, source="shadow") for name in counts]
    for query in ("read a file", "sort a list", "open a socket"):
        search(asked, query)
    assert asked.service.monitor.observer.flush(20)
    assert [asked.metric(name, source="shadow") - was for name, was in zip(counts, before, strict=True)] == [30, 30]


def test_a_document_is_found_once_it_is_acknowledged(asked: Asked, passages: list[dict[str, Any]]) -> None:
    other = {"id": passages[3]["id"], "text": "Asthma narrows the airways."}
    answer = put(asked, [GOUT, other], (passages[4]["id"], "unknown"))
    assert answer.json() == {"new": 1, "replaced": 1, "unchanged": 0, "deleted": 1, "truncated": []}
    for mode in ("dense", "keyword", "hybrid"):
        assert search(asked, "colchicine for gout", mode=mode)[0]["id"] == "gout"
        assert search(asked, "narrow airways asthma", mode=mode)[0]["id"] == passages[3]["id"]
        gone = search(asked, passages[4]["text"], mode=mode, k=64)
        assert passages[4]["id"] not in [hit["id"] for hit in gone]
    assert asked.ask("GET", "/documents/gout").json() == GOUT
    assert asked.ask("GET", f"/documents/{passages[4]['id']}").status_code == 404
    assert put(asked, [GOUT]).json()["unchanged"] == 1
    assert asked.metric("embedship_index_changes_total", change="new") == 1
    assert asked.ask("DELETE", "/documents/gout", headers=KEY).json() == {"deleted": 1}
    assert "gout" not in [hit["id"] for hit in search(asked, "colchicine for gout", k=64)]
    long = put(asked, [{"id": "long", "title": "😀" * 9_000, "text": "😀" * 9_000}])  # 4 bytes each
    assert (long.status_code, "Milvus allows 65,535" in long.text) == (422, True)


def test_milvus_goes_away_and_comes_back(behind: Asked, wire: Wire) -> None:
    """Searches and writes are answered with 503 at once, nothing is acknowledged, and nobody restarts anything."""

    def ask() -> httpx.Response:
        return behind.post("/search", {"query": "read a file"})

    before = search(behind, "read a file")
    wire.sever()
    asks = (ask, ask, lambda: put(behind, [GOUT]), lambda: behind.ask("GET", "/documents/gout"))
    for number, each in enumerate(asks):
        began = time.monotonic()
        answer = each()
        assert time.monotonic() - began < (2 if number else 2 * QUICK_SECONDS), "the first connects anew, in vain"
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert "does not answer" in answer.json()["error"]
    assert behind.metric("embedship_failures_total", reason="index_away") == len(asks)
    assert behind.post("/v1/embeddings", {"input": "x", "model": "any"}).status_code == 200, "the model is here"
    assert behind.metric("embedship_index_documents") == 60, "the last that is known"
    wire.mend()
    assert eventually(ask).status_code == 200
    assert search(behind, "read a file") == before
    assert behind.ask("GET", "/documents/gout").status_code == 404, "it was not acknowledged, and is not there"
    assert put(behind, [GOUT]).json()["new"] == 1
    assert put(behind, [], ("gout",)).json()["deleted"] == 1


def test_a_write_that_is_cut_off_half_way_is_not_acknowledged(
    behind: Asked, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of it was done: to send it again is right, and does no harm."""
    collection = behind.service.collection.backend  # type: ignore[union-attr]
    upsert = collection._upsert  # type: ignore[attr-defined]

    def cut(entities: Any) -> None:
        upsert(entities[:1])
        wire.sever()
        upsert(entities[1:])

    other = {"id": "other", "text": "another document"}
    monkeypatch.setattr(collection, "_upsert", cut)
    assert put(behind, [GOUT, other]).status_code == 503
    monkeypatch.undo()
    wire.mend()
    answer = eventually(lambda: put(behind, [GOUT, other])).json()
    assert (answer["new"], answer["unchanged"]) == (1, 1)


def test_a_collection_that_is_filled_anew_with_another_model_is_not_searched(
    filled: Callable[[str], Address], settings: Settings, stranger: Path, corpus: Path, line: MilvusConnection
) -> None:
    address = filled("swapped")
    with opened(replace(settings, index=address)) as asked:
        search(asked, "read a file")
        line.call("drop_collection", address.collection)
        answer = asked.post("/search", {"query": "read a file"})
        assert (answer.status_code, "no longer exists: there is no milvus://" in answer.text) == (503, True)
        with Encoder.open(Bundle.open(stranger)) as encoder:
            load(encoder, encoder.variant.name, corpus, address, IndexOptions(), lambda *_: None)
        line.call("load_collection", address.collection)  # as who serves it does
        answer = asked.post("/search", {"query": "read a file"})
        assert (answer.status_code, "was built with model" in answer.text) == (503, True)


def test_a_reload_takes_up_another_collection(
    filled: Callable[[str], Address], keyed: Callable[[Address], Settings], at: At, tmp_path: Path
) -> None:
    (tmp_path / "admin").write_text("an-admin-key-of-the-tests")
    headers = {"authorization": "Bearer an-admin-key-of-the-tests"}
    settings = replace(keyed(filled("first")), admin_key_file=tmp_path / "admin")

    with opened(settings) as asked:

        def reload(index: Address | str) -> httpx.Response:
            return asked.ask("POST", "/admin/reload", json={"index": str(index)}, headers=headers)

        assert put(asked, [GOUT]).json()["new"] == 1
        for index, status, why in (
            ("milvus://nowhere", 422, "is not a valid address of a collection"),
            ("milvus://127.0.0.1:1/faq", 422, "is not sent to other servers"),
            (f"milvus:{tmp_path}/other.db/faq", 422, "is not sent to other servers"),
            (at("missing"), 409, "fill it with `embedship index"),
        ):
            answer = reload(index)
            assert (answer.status_code, why in answer.json()["error"]) == (status, True), answer.text
        assert search(asked, "colchicine for gout")[0]["id"] == "gout"
        assert reload(filled("second")).status_code == 200
        assert search(asked, "colchicine for gout")[0]["id"] != "gout"
        assert put(asked, [GOUT]).json()["new"] == 1, "it takes changes, too"


def test_a_file_has_one_owner(bundle: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How a file is filled, served and changed, docs/milvus.md says and its test does."""
    with serving(tmp_path / "faq.db"):
        assert run(["index", "update", f"milvus:{tmp_path}/faq.db/faq", str(corpus), "--bundle", str(bundle)]) == 1
    error = capsys.readouterr().err
    assert ("only one process at a time" in error, "Traceback" in error) == (True, False)


def test_what_is_wrong_is_one_sentence(
    bundle: Path, corpus: Path, at: At, filled: Callable[[str], Address], capsys: pytest.CaptureFixture[str]
) -> None:
    there = str(filled("there"))
    for arguments, why in (
        (["index", str(bundle), str(corpus), "--out", there], "exists already, and may be in use"),
        (["index", "update", f"{there}_not", str(corpus), "--bundle", str(bundle)], "fill it with `embedship index"),
        (["serve", str(bundle), "--index", "milvus://nowhere"], "is not a valid address of a collection"),
    ):
        assert run(arguments) == 2
        (line,) = (each for each in capsys.readouterr().err.splitlines() if each.startswith("error: "))
        assert why in line


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--chunk", "64"], "CORPUS.jsonl, --variant"),
        (["--ray", "local"], "CORPUS.jsonl, --variant"),
        (["--kind", "pq"], "a Milvus collection cannot be pq"),
        (["--nprobe", "3"], "effort nprobe: this index does not have this setting"),
    ],
)
def test_what_a_collection_cannot_be(
    bundle: Path, corpus: Path, at: At, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(bundle), str(corpus), "--out", str(at("never")), *options]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([("a", "x"), ("b", "x"), ("a", "x")], "line 3: the id 'a' is also that of line 1"),
        ([("a", "x"), ("b", "é" * 40_000)], "document 'b': size of title and text is 80,000 bytes"),
        ([], "is empty: it needs at least one line"),
    ],
)
def test_a_corpus_is_loaded_whole_or_not_at_all(
    bundle: Path,
    at: At,
    line: MilvusConnection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lines: Any,
    why: str,
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in lines))
    assert run(["index", str(bundle), str(path), "--out", str(at("torn"))]) == 2
    assert why in " ".join(capsys.readouterr().err.split())
    assert not line.call("has_collection", "torn")


def test_documents_without_text_are_skipped_and_named(
    bundle: Path, at: At, line: MilvusConnection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": " "}\n')
    assert run(["index", str(bundle), str(path), "--out", str(at("some"))]) == 0
    assert "skipped (no text): 1 (b)" in " ".join(capsys.readouterr().out.split())


def test_a_load_of_which_documents_are_missing_makes_nothing(
    filled: Callable[[str], Address], line: MilvusConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all = MilvusBackend._upsert
    monkeypatch.setattr(MilvusBackend, "_upsert", lambda self, entities: put_all(self, entities[1:]))
    with pytest.raises(BackendUnavailable, match="only 59 of 60 documents were stored, so the collection was not"):
        filled("short")
    assert not line.call("has_collection", "short")


def test_what_a_killed_load_left_is_no_obstacle(filled: Callable[[str], Address], line: MilvusConnection) -> None:
    line.call("create_collection", "again_loading", dimension=4)
    filled("again")
    assert line.call("has_collection", "again")
    assert not line.call("has_collection", "again_loading")
