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
from embedship.cli import run
from embedship.encoder import Encoder
from embedship.serve.index.build import Wishes
from embedship.serve.milvus import line as lines
from embedship.serve.milvus.address import Address
from embedship.serve.milvus.line import Line
from embedship.serve.milvus.load import load
from embedship.serve.settings import Settings

from ...embedship.transfer.wire import Wire
from ..conftest import Asked, launched, opened

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
            load(encoder, encoder.variant.name, corpus, at(name), Wishes(), lambda *_: None)
        return at(name)

    return filled


@pytest.fixture(scope="module")
def keyed(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Address], Settings]:
    path = tmp_path_factory.mktemp("keys") / "write"
    path.write_text(KEY["authorization"].split()[1])
    return lambda index: replace(settings, index=index, writable=True, write_key_file=path, shadow_rate=1.0)


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


def search(asked: Asked, query: str, **more: Any) -> list[dict[str, Any]]:
    answer = asked.post("/search", {"query": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["hits"]


def put(asked: Asked, documents: list[Any], delete: tuple[str, ...] = ()) -> httpx.Response:
    return asked.ask("PUT", "/documents", json={"documents": documents, "delete": list(delete)}, headers=KEY)


def test_it_answers_as_a_folder_does(
    filled: Callable[[str], Address], settings: Settings, index_folder: Path, passages: list[dict[str, Any]]
) -> None:
    """Hit for hit and score for score; keywords apart, of which each engine has its own idea."""
    with (
        opened(replace(settings, index=filled("same"))) as collection,
        opened(replace(settings, index=index_folder)) as folder,
    ):
        for passage in passages[::6]:
            query = passage["title"]
            there, here = (search(asked, query, k=10) for asked in (collection, folder))
            assert [hit["id"] for hit in there] == [hit["id"] for hit in here]
            assert [hit["score"] for hit in there] == pytest.approx([hit["score"] for hit in here], abs=1e-5)
            assert [{**hit, "score": 0} for hit in there] == [{**hit, "score": 0} for hit in here]
        (first,) = search(collection, "anything", filter={"kind": "first"})
        assert first["id"] == passages[0]["id"]
        (word,) = search(collection, passages[0]["text"], mode="hybrid", filter={"kind": "first"})
        assert (word["id"], word["dense"]["rank"], word["keyword"]["rank"]) == (passages[0]["id"], 1, 1)
        unknown = collection.post("/search", {"query": "x", "filter": {"colour": "red"}})
        assert (unknown.status_code, "no document has" in unknown.text) == (422, True)
        info = collection.ask("GET", "/info").json()["index"]
        assert (info["size"], info["rows"], info["kind"], info["chunking"]) == (60, 60, "flat", None)
        assert collection.metric("embedship_index_documents") == 60
        many = collection.post("/search", {"query": ["a", "b", "c"], "k": 5}).json()["results"]
        assert [len(result["hits"]) for result in many] == [5, 5, 5]


def test_a_document_is_found_once_it_is_acknowledged(
    filled: Callable[[str], Address], keyed: Callable[[Address], Settings], passages: list[dict[str, Any]]
) -> None:
    with opened(keyed(filled("written"))) as asked:
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
        assert asked.ask("DELETE", "/documents/gout", headers=KEY).json() == {"deleted": 1}
        assert "gout" not in [hit["id"] for hit in search(asked, "colchicine for gout", k=64)]
        long = put(asked, [{"id": "long", "text": "é" * 9_000, "metadata": {"a": "x" * 70_000}}])
        assert (long.status_code, "Milvus keeps 65,535" in long.text) == (422, True)


def test_shadow_recall_is_measured_there(
    filled: Callable[[str], Address], keyed: Callable[[Address], Settings]
) -> None:
    with opened(keyed(filled("shadow"))) as asked:
        for query in ("read a file", "sort a list", "open a socket"):
            search(asked, query)
        assert asked.service.watch.observer.flush(20)
        right, expected = (asked.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
        assert right == expected == 30


def test_milvus_goes_away_and_comes_back(
    filled: Callable[[str], Address], keyed: Callable[[Address], Settings], wire: Wire
) -> None:
    """Searches and writes are answered with 503 at once, nothing is acknowledged, and nobody restarts anything."""
    name = filled("cut").collection
    with opened(keyed(Address(f"http://127.0.0.1:{wire.port}", name))) as asked:
        before = search(asked, "read a file")
        wire.sever()
        search_away = lambda: asked.post("/search", {"query": "read a file"})  # noqa: E731
        for ask in (search_away, search_away, lambda: put(asked, [GOUT]), lambda: asked.ask("GET", "/documents/gout")):
            began = time.monotonic()
            answer = ask()
            assert time.monotonic() - began < 2
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) == 1
            assert "does not answer" in answer.json()["error"]
        assert asked.metric("embedship_failures_total", reason="index_away") == 4
        assert asked.post("/v1/embeddings", {"input": "x", "model": "any"}).status_code == 200, "the model is here"
        assert asked.metric("embedship_index_documents") == 60, "the last that is known"
        wire.mend()
        end = time.monotonic() + 20
        while search_away().status_code != 200:
            assert time.monotonic() < end
            threading.Event().wait(0.05)
        assert search(asked, "read a file") == before
        assert asked.ask("GET", "/documents/gout").status_code == 404, "it was not acknowledged, and is not there"
        assert put(asked, [GOUT]).json()["new"] == 1


def test_a_write_whose_answer_is_lost_is_not_acknowledged(
    filled: Callable[[str], Address], keyed: Callable[[Address], Settings], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been done: to send it again is right, and does no harm."""
    name = filled("lost").collection
    with opened(keyed(Address(f"http://127.0.0.1:{wire.port}", name))) as asked:
        collection = asked.service.shelf.store  # type: ignore[union-attr]
        put_then_cut = collection._put

        def cut(entities: Any) -> None:
            put_then_cut(entities)
            wire.sever()
            put_then_cut(entities)

        monkeypatch.setattr(collection, "_put", cut)
        assert put(asked, [GOUT]).status_code == 503
        monkeypatch.undo()
        wire.mend()
        end = time.monotonic() + 20
        while (answer := put(asked, [GOUT])).status_code == 503:
            assert time.monotonic() < end
            threading.Event().wait(0.05)
        assert (answer.json()["new"], answer.json()["unchanged"]) == (0, 1)


def test_a_collection_that_is_filled_anew_with_another_model_is_not_searched(
    filled: Callable[[str], Address], settings: Settings, stranger: Path, corpus: Path, line: Line
) -> None:
    address = filled("swapped")
    with opened(replace(settings, index=address)) as asked:
        search(asked, "read a file")
        line.ask("drop_collection", address.collection)
        answer = asked.post("/search", {"query": "read a file"})
        assert (answer.status_code, "is there no more: there is no milvus://" in answer.text) == (503, True)
        with Encoder.open(Bundle.open(stranger)) as encoder:
            load(encoder, encoder.variant.name, corpus, address, Wishes(), lambda *_: None)
        answer = asked.post("/search", {"query": "read a file"})
        assert (answer.status_code, "was built with model" in answer.text) == (503, True)


def test_the_commands_and_a_file_of_milvus_lite(
    bundle: Path, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """index, index update, serve: processes of their own, for a file has one owner at a time."""
    address = f"milvus://{tmp_path}/faq.db/faq"
    index = ["index", str(bundle), str(corpus), "--out", address]
    assert in_a_process(*index, "--json").stdout.count('"documents":60') == 1
    again = in_a_process(*index)
    assert (again.returncode, "is there already, and may be served" in again.stderr) == (2, True)
    changes = tmp_path / "changes.jsonl"
    changes.write_bytes(msgspec.json.encode(GOUT) + b'\n{"id": "nobody", "delete": true}\n')
    updated = in_a_process("index", "update", address, str(changes), "--bundle", str(bundle))
    assert "61 documents, 1 of them new" in updated.stdout, updated.stderr
    with launched(str(bundle), "--index", address) as server:
        answer = httpx.post(f"{server.url}/search", json={"query": "colchicine"}, timeout=60)
        assert answer.json()["results"][0]["hits"][0]["id"] == "gout"
    missing = in_a_process("serve", str(bundle), "--index", address + "2")
    assert (missing.returncode, "fill it with `embedship index" in missing.stderr) == (2, True)
    assert "Traceback" not in missing.stderr + again.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--chunk", "64"], "takes CORPUS.jsonl, --variant"),
        (["--kind", "pq"], "a collection in Milvus is not pq"),
        (["--nprobe", "3"], "effort nprobe: this index has no such knob"),
    ],
)
def test_what_a_collection_cannot_be(
    bundle: Path, corpus: Path, at: At, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(bundle), str(corpus), "--out", str(at("never")), *options]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


def test_a_corpus_that_says_an_id_twice_makes_no_collection(
    bundle: Path, at: At, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({"id": id, "text": "x"}) + "\n" for id in "aba"))
    assert run(["index", str(bundle), str(path), "--out", str(at("twice"))]) == 2
    assert "line 3: the id 'a' was given to line 1 already" in capsys.readouterr().err
    assert not line.ask("has_collection", "twice")


def test_a_server_that_cannot_be_reached_is_said_at_start(
    bundle: Path, capsys: pytest.CaptureFixture[str], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "SLOW_SECONDS", 0.5)
    wire.sever()
    assert run(["index", "update", f"milvus://127.0.0.1:{wire.port}/a", __file__, "--bundle", str(bundle)]) in (1, 2)


def in_a_process(*arguments: str) -> Any:
    import os
    import subprocess
    import sys

    command = [sys.executable, "-P", "-m", "embedship", *arguments]
    environment = {**os.environ, "COLUMNS": "1000"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
