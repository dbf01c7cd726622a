"""PUT, GET and DELETE at /documents, through the ASGI door, over a real index."""

from __future__ import annotations

import ast
import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from embedship.errors import UsageError
from embedship.serve.documents.changes import ChunkedDocuments
from embedship.serve.documents.store import Document
from embedship.serve.errors import TooLarge
from embedship.serve.search.backend import WriteRefused
from embedship.serve.service import document_writer
from embedship.serve.settings import Settings

from ...conftest import opened

WRITE, ADMIN = "a-write-key-of-the-tests", "an-admin-key-of-the-tests"
KEY = {"authorization": f"Bearer {WRITE}"}
GOUT = {"id": "gout", "text": "Gout is treated with colchicine.", "title": "Gout", "metadata": {"kind": "disease"}}


@pytest.fixture(scope="module")
def shared(settings: Settings, index_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One service for the tests that ask nothing of how many documents there are."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "write").write_text(WRITE)
    index = shutil.copytree(index_folder, folder / "index")
    with opened(replace(settings, index=index, writable=True, write_key_file=folder / "write")) as asked:
        yield asked


@pytest.fixture
def index(index_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(index_folder, tmp_path / "index"))


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    for name, key in (("write", WRITE), ("admin", ADMIN)):
        (tmp_path / name).write_text(key)
    return {"write_key_file": tmp_path / "write", "admin_key_file": tmp_path / "admin"}


@pytest.fixture
def asked(fresh: Callable[..., Any], index: Path, keys: dict[str, Path]) -> Any:
    return fresh(index=index, writable=True, shadow_rate=1.0, **keys)


def put(asked: Any, documents: list[Any], delete: tuple[str, ...] = (), headers: Any = KEY) -> Any:
    return asked.ask("PUT", "/documents", json={"documents": documents, "delete": list(delete)}, headers=headers)


def ids(asked: Any, query: str, **more: Any) -> list[str]:
    (result,) = asked.post("/search", {"query": query, **more}).json()["results"]
    return [hit["id"] for hit in result["hits"]]


def test_a_document_is_found_once_it_is_acknowledged(asked: Any, passages: list[dict[str, Any]]) -> None:
    other = {"id": passages[3]["id"], "text": "Asthma narrows the airways."}
    answer = put(asked, [GOUT, other], (passages[4]["id"], "unknown"))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"new": 1, "replaced": 1, "unchanged": 0, "deleted": 1, "truncated": []}
    for mode in ("dense", "keyword", "hybrid"):
        assert ids(asked, "colchicine for gout", mode=mode)[0] == "gout"
        assert ids(asked, "narrow airways, asthma", mode=mode)[0] == passages[3]["id"]
        assert passages[4]["id"] not in ids(asked, passages[4]["text"], mode=mode, k=64)
        assert ids(asked, "anything", mode="dense", filter={"kind": "disease"}) == ["gout"]
    assert asked.ask("GET", "/documents/gout").json() == GOUT
    assert asked.ask("GET", f"/documents/{passages[4]['id']}").status_code == 404
    assert asked.metric("embedship_index_documents") == len(passages)
    assert asked.metric("embedship_index_fresh_documents") == 2
    assert asked.metric("embedship_index_tombstones") == 2
    for change in ("new", "replaced", "deleted"):
        assert asked.metric("embedship_index_changes_total", change=change) == 1
    assert asked.metric("embedship_index_write_seconds_count") == 1
    assert asked.ask("GET", "/info").json()["index"]["size"] == len(passages)


def test_its_vector_is_that_of_a_document(shared: Any) -> None:
    seen = shared.metric("embedship_monitor_queries_total")
    put(shared, [GOUT])
    with shared.service.collection.backend.folder.read_view() as now:
        row = now.documents.rows(["gout"])["gout"]
        (score,) = now.index.search(shared.service.encoder.encode([GOUT["text"]]), 1).scores[0]
        assert now.index.search(shared.service.encoder.encode([GOUT["text"]]), 1).rows[0, 0] == row
    assert score == pytest.approx(1, abs=2e-3)
    assert shared.metric("embedship_monitor_queries_total") == seen, "a document is no query"


def test_the_same_again_changes_nothing(asked: Any) -> None:
    put(asked, [GOUT])
    assert put(asked, [GOUT]).json() == {"new": 0, "replaced": 0, "unchanged": 1, "deleted": 0, "truncated": []}
    assert asked.metric("embedship_index_write_seconds_count") == 1
    more = put(asked, [{**GOUT, "metadata": {"kind": "drug"}}])
    assert more.json()["replaced"] == 1
    assert ids(asked, "x", filter={"kind": "drug"}) == ["gout"]


def test_numbers_that_python_takes_for_equal_are_other_metadata(shared: Any) -> None:
    for value in (1, True, 1.0, 1, [1], [True], {"deep": 0}, {"deep": -0.0}):
        answer = put(shared, [{**GOUT, "id": "n", "metadata": {"n": value, "m": 2}}])
        assert answer.json()["unchanged"] == 0, value
        assert repr(shared.ask("GET", "/documents/n").json()["metadata"]["n"]) == repr(value)
    same = put(shared, [{**GOUT, "id": "n", "metadata": {"m": 2, "n": {"deep": -0.0}}}])
    assert same.json()["unchanged"] == 1, "names have no order"


def test_deleting_twice_is_no_mistake(shared: Any, passages: list[dict[str, Any]]) -> None:
    path = f"/documents/{passages[0]['id']}"
    assert [shared.ask("DELETE", path, headers=KEY).json() for _ in range(2)] == [{"deleted": 1}, {"deleted": 0}]
    assert passages[0]["id"] not in ids(shared, passages[0]["text"], k=64)


def test_what_is_cut_is_said(shared: Any) -> None:
    long = {"id": "long", "text": "word " * 1000}
    answer = put(shared, [{"id": "short", "text": "short"}, long])
    (cut,) = answer.json()["truncated"]
    assert cut["id"] == "long"
    assert cut["tokens"] > 400
    assert answer.headers["x-embedship-truncated"] == "1"


def test_an_id_with_a_slash_and_more(shared: Any) -> None:
    id = "a/b c?d%e#f/ü"
    put(shared, [{"id": id, "text": "odd"}])
    path = "/documents/a%2Fb%20c%3Fd%25e%23f%2F%C3%BC"
    assert shared.ask("GET", path).json() == {"id": id, "text": "odd"}
    assert shared.ask("DELETE", path, headers=KEY).json() == {"deleted": 1}


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 422, "give at least one document, or ids in `delete`"),
        ({"documents": [{"id": "a", "text": " "}]}, 422, r"documents[0].text: it is empty"),
        ({"documents": [{"id": "", "text": "x"}]}, 422, "length >= 1"),
        ({"documents": [{"id": "a\0b", "text": "x"}]}, 422, "documents[0].id contains a NUL"),
        ({"documents": [GOUT, GOUT]}, 422, "documents[1]: the id 'gout' is already used by documents[0]"),
        ({"documents": [GOUT], "delete": ["gout"]}, 422, "delete[0]: the id 'gout' is already used by documents[0]"),
        ({"documents": [{**GOUT, "txet": "x"}]}, 422, "unknown field `txet`"),
        ({"documents": [{"id": str(n), "text": "x"} for n in range(65)]}, 413, "65 texts; the maximum is 64"),
        ({"delete": [str(n) for n in range(65)]}, 413, "65 texts; the maximum is 64"),
        ({"documents": [{"id": "a", "text": "x" * 10_001}]}, 413, "text 0 has 10001 characters"),
        ({"documents": [{"id": "a", "text": "x", "metadata": [1]}]}, 422, "Expected `object | null`"),
    ],
)
def test_what_is_wrong_is_a_sentence(shared: Any, body: dict[str, Any], status: int, sentence: str) -> None:
    answer = shared.ask("PUT", "/documents", json=body, headers=KEY)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]


def test_metadata_without_a_bottom(shared: Any) -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = {"a": deep}
    answer = put(shared, [{"id": "a", "text": "x", "metadata": deep}])
    assert answer.status_code == 422
    assert "nested more than 32 levels deep" in answer.text


def test_who_may_write(
    fresh: Callable[..., Any], asked: Any, api: Any, index_folder: Path, keys: dict[str, Path]
) -> None:
    assert put(asked, [GOUT], headers={}).status_code == 401
    assert put(asked, [GOUT], headers={"authorization": "Bearer of-none-of-these-keys"}).status_code == 401
    assert asked.ask("DELETE", "/documents/gout").status_code == 401
    assert put(asked, [GOUT], headers={"authorization": f"Bearer {ADMIN}"}).status_code == 200
    reload = asked.ask("POST", "/admin/reload", json={}, headers=KEY)
    assert reload.status_code == 403, "who may write is no admin"
    assert "POST /admin/reload requires an admin key" in reload.text
    reading = fresh(index=index_folder, **keys)
    answer = put(reading, [GOUT])
    assert (answer.status_code, "start the server with --writable" in answer.text) == (403, True)
    assert api.ask("GET", "/documents/gout").status_code == 409, "it has no index"
    keyless = put(api, [GOUT])
    assert (keyless.status_code, "requires a write key, but this server has none" in keyless.text) == (403, True)


def test_an_api_key_may_not_write(fresh: Callable[..., Any], keys: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "callers").write_text("a-key-of-some-caller")
    reading = fresh(**keys, api_key_file=tmp_path / "callers")
    answer = put(reading, [GOUT], headers={"authorization": "Bearer a-key-of-some-caller"})
    assert answer.status_code == 403
    assert (
        answer.json()["error"]
        == "This key does not permit the request: PUT /documents requires a write key or an admin key."
    )
    described = reading.ask("GET", "/openapi.json").json()["paths"]["/documents"]["put"]["responses"]["403"]
    assert described["description"].startswith("The key does not permit this request")


def test_without_an_index_a_change_is_refused_as_such_whatever_python_strips(
    fresh: Callable[..., Any], keys: dict[str, Path]
) -> None:
    """What raises stands in no assert: `python -O` would answer 403, as a server that only reads."""
    answer = put(fresh(**keys), [GOUT])
    assert (answer.status_code, "has no index" in answer.text) == (409, True)
    source = Path(document_writer.__file__).read_text()
    writable = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "_require_writable"
    )
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(writable))


def test_writable_without_an_index_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="needs an index: give --index"):
        Settings(bundle=bundle, writable=True)


def test_what_changed_meanwhile_is_no_miss(asked: Any, passages: list[dict[str, Any]]) -> None:
    """The exact search that judges an answer looks at what the answer was given of."""
    observer = asked.service.monitor.observer
    with observer._work:  # the monitor's thread waits
        asked.post("/search", {"query": [passage["text"] for passage in passages[:20]]})
        put(
            asked,
            [{"id": f"copy-{n}", "text": passages[n]["text"]} for n in range(20)],
            [p["id"] for p in passages[20:40]],
        )
    assert observer.flush(120)
    right, expected = (asked.metric(f"embedship_recall_{n}_total", source="shadow") for n in ("found", "expected"))
    assert right == expected == 200


def test_an_answer_is_judged_by_ids_whatever_was_written_since(asked: Any, passages: list[dict[str, Any]]) -> None:
    answer = asked.post("/search", {"query": passages[3]["text"]})
    put(asked, [{"id": passages[3]["id"], "text": "something else"}], [passages[5]["id"]])
    asked.service.collection.backend.folder.compact()
    judged = asked.post("/feedback", {"request_id": answer.headers["x-request-id"], "relevant": [passages[3]["id"]]})
    assert judged.json() == {"found": 1, "expected": 1, "recall": 1.0}


def test_a_reload_takes_the_changes_over(asked: Any, index: Path) -> None:
    before = asked.service
    put(asked, [GOUT])
    admin = {"authorization": f"Bearer {ADMIN}"}
    assert asked.ask("POST", "/admin/reload", json={}, headers=admin).status_code == 200
    assert asked.service is not before
    assert asked.ask("GET", "/documents/gout").json() == GOUT
    assert put(asked, [], ("gout",)).json()["deleted"] == 1
    assert "gout" not in ids(asked, "gout", k=64)


def test_enough_changes_are_compacted_beside_the_searches(fresh: Callable[..., Any], index: Path, keys: Any) -> None:
    asked = fresh(index=index, writable=True, max_texts=64, **keys)
    asked.service.writer._compaction._least = 100
    for start in range(0, 150, 50):
        put(asked, [{"id": f"new-{n}", "text": f"number {n}"} for n in range(start, start + 50)])
    end = time.monotonic() + 30
    while asked.metric("embedship_index_compactions_total", result="done") < 1 and time.monotonic() < end:
        assert "new-7" in ids(asked, "number 7", mode="keyword")
    assert asked.metric("embedship_index_compactions_total", result="done") >= 1
    assert asked.metric("embedship_index_last_compaction_timestamp_seconds") > 0
    assert asked.metric("embedship_index_fresh_documents") < 150
    assert set(ids(asked, "number", k=200)) >= {f"new-{n}" for n in range(150)}


@pytest.mark.parametrize(("full", "status"), [(True, 507), (False, 503)])
def test_a_disk_that_refuses_is_said_and_reading_goes_on(shared: Any, full: bool, status: int) -> None:
    live = shared.service.writer._index

    class Refuses:
        manifest = live.manifest
        changed_documents = staticmethod(live.changed_documents)

        def write(self, changes: Any) -> Any:
            raise WriteRefused("nothing was written, the disk is full: make room, and send it again", full)

    shared.service.writer._index = Refuses()
    asthma = {"id": f"asthma-{status}", "text": "Asthma narrows the airways."}
    answer = put(shared, [asthma])
    assert answer.status_code == status
    assert answer.headers["retry-after"] == "30"
    assert answer.json()["error"].startswith("Nothing was written, the disk is full")
    reason = "disk_full" if full else "not_stored"
    assert shared.metric("embedship_failures_total", reason=reason) == 1
    assert len(ids(shared, "gout")) == 10
    shared.service.writer._index = live
    assert put(shared, [asthma]).status_code == 200


class Blocks:
    """An index whose writes and reads wait until they may go on, and note how many requests the drain counts."""

    def __init__(self, asked: Any) -> None:
        self.manifest = asked.service.writer._index.manifest
        self.begun, self.proceed = Event(), Event()
        self.inside = 0
        self._drain = asked.state.drain

    def write(self, changes: Any) -> Any:
        return self._wait()

    def fetch(self, id: str) -> Any:
        return self._wait()

    def close(self) -> None: ...

    def _wait(self) -> None:
        self.inside = self._drain.inside
        self.begun.set()
        assert self.proceed.wait(30)


@pytest.fixture
def blocks(asked: Any) -> Iterator[Blocks]:
    made, writer, collection = Blocks(asked), asked.service.writer, asked.service.collection
    index, backend = writer._index, collection.backend
    writer._index = collection.backend = made
    try:
        yield made
    finally:
        made.proceed.set()
        writer._index, collection.backend = index, backend


@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_what_takes_no_body_has_a_deadline_and_keeps_a_draining_server(asked: Any, blocks: Blocks, method: str) -> None:
    asked.state.drain.begin(quiet_seconds=0.0)
    answer = asked.ask(method, "/documents/gout", headers={**KEY, "x-request-timeout-ms": "50"})
    assert answer.status_code == 504
    assert "No response within 0.05 s" in answer.json()["error"]
    assert asked.metric("embedship_rejections_total", reason="expired") == 1
    assert blocks.begun.wait(30)
    assert (blocks.inside, asked.state.drain.inside) == (1, 0)
    assert asked.ask(method, "/documents/gout", headers={**KEY, "x-request-timeout-ms": "soon"}).status_code == 422


@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_who_asks_without_a_body_may_leave(asked: Any, blocks: Blocks, method: str) -> None:
    scope = {
        "type": "http",
        "method": method,
        "path": "/documents/gout",
        "headers": [(name.encode(), value.encode()) for name, value in KEY.items()],
    }
    sent: list[Any] = []

    async def go() -> None:
        received: asyncio.Queue[Any] = asyncio.Queue()
        received.put_nowait({"type": "http.request"})

        async def send(message: Any) -> None:
            sent.append(message)

        request = asyncio.create_task(asked.app(scope, received.get, send))
        assert await asyncio.to_thread(blocks.begun.wait, 30)
        received.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(request, 30)

    asyncio.run(go())
    assert sent[0]["status"] == 499
    assert asked.state.drain.inside == 0


def test_title_and_metadata_of_many_chunks_are_limited() -> None:
    """They are stored with every chunk: 16 MiB and 1,000 chunks would be 16 GB."""
    document = Document("a", "text", "t" * 100_000, {"x": "y"})
    document_writer._check_repeated(ChunkedDocuments([document], [[document] * 600]))
    with pytest.raises(TooLarge, match="stored with every chunk"):
        document_writer._check_repeated(ChunkedDocuments([document], [[document] * 700]))
