"""Against a server on this machine that answers what the hub answers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from embedship.commands import main
from embedship.errors import UsageError
from embedship.export import silence
from embedship.export.checkpoint import hub
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.checkpoint.open import OpenOptions, open_checkpoint

from ..conftest import Make, adapted, edit

NAME, COMMIT = "somebody/tiny", "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """One model, at one commit, under the name `main`; `asked` keeps the files that were downloaded."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        file = path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if path == f"/api/models/{NAME}/revision/main":
            self._send(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode(), body)
        elif path == f"/api/models/{NAME}/tree/{COMMIT}":
            rows = [{"type": "file", "path": n, "size": len(c), "oid": _oid(c)} for n, c in self.server.files.items()]
            self._send(200, json.dumps(rows).encode(), body)
        elif file in self.server.files:
            self.server.asked += [file] if body else []
            self._send(200, self.server.files[file], body)
        else:
            kind = "RevisionNotFound" if path.startswith(f"/api/models/{NAME}/") else "RepoNotFound"
            self._send(404, b"{}", body, kind)

    def _send(self, status: int, content: bytes, body: bool, error: str | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, "ETag": f'"{_oid(content)}"'}
        for name, value in (headers | ({"X-Error-Code": error} if error else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def served(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tiny) as server:
        server.files |= {"onnx/model.json": b"{}", "pytorch_model.bin": b"a pickle"}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(silence, "_OFFLINE", None)
        yield server
        server.shutdown()
        thread.join()


def test_a_hub_id_opens_at_its_commit(served: Hub, tiny: Path) -> None:
    with open_checkpoint(NAME, OpenOptions()) as source:
        fetched = EmbedderCheckpoint.open(source)
    assert (fetched.source.name, fetched.source.revision) == (NAME, COMMIT)
    assert fetched.source.weights_sha256 == EmbedderCheckpoint.open(tiny).source.weights_sha256
    assert "model.safetensors" in served.asked
    assert not {"onnx/model.json", "pytorch_model.bin"} & set(served.asked)


def test_pickles_are_fetched_only_if_one_is_allowed(served: Hub) -> None:
    hub.fetch(f"{NAME}@{COMMIT}", pickles=True)
    assert "pytorch_model.bin" in served.asked


def test_what_was_fetched_needs_no_network_again(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hub.fetch(f"{NAME}@main")
    served.asked.clear()
    monkeypatch.setattr(silence, "_OFFLINE", "1")
    assert hub.fetch(NAME) == first
    assert served.asked == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{NAME}@v9", "has no revision v9"),
        ("somebody/nothing", "no model somebody/nothing, or only some users may read it"),
    ],
)
def test_what_the_hub_does_not_have_is_said(served: Hub, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hub.fetch(text)


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], offline: str
) -> None:
    """ "1": whoever started us forbade it. "0": nobody listens at the address."""
    monkeypatch.setattr(silence, "_OFFLINE", offline)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main.run(["export", NAME, "--out", str(tmp_path / "bundle")]) == 2
    told = capfd.readouterr().err
    assert told.strip() == (
        f"error: {NAME} is not a folder, and could not be fetched from the hub: there is no network, or the hub does "
        "not answer. Give the path of a folder instead"
    )


def test_what_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    ids = ["sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-m3@refs/pr/7", "a/b@0123abc"]
    paths = ["models/minilm", "/a/b", "./a/b", "../a/b", "a/b/c", "minilm", "a//b", "", "a/b@"]
    assert [text for text in ids + paths if hub.is_id(text)] == ids


def test_the_base_of_an_adapter_may_be_an_id(served: Hub, checkpoint: Make, tmp_path: Path) -> None:
    folder = adapted(checkpoint, tmp_path, whole=False)
    edit(folder / "adapter_config.json", base_model_name_or_path=NAME)
    with open_checkpoint(folder, OpenOptions(base=f"{NAME}@{COMMIT}")) as source:
        assert EmbedderCheckpoint.open(source).source.merge
