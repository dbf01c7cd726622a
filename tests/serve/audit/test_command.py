"""The command `embedship audit`: exit codes, output, keys, and our own server."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from embedship.commands.main import run
from embedship.errors import UsageError
from embedship.serve.audit import checkpoint
from embedship.serve.audit.checkpoint import exported

from .conftest import MiniLm, PlainServer, listening
from .test_audit import ClsPooling

KEY = "k" * 32


def test_our_own_server_is_right(live: Any, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", live.url, "--bundle", str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["faults"] == []
    assert report["api"] == "openai"
    assert {each["name"] for each in report["checks"]} >= {"together", "shuffled", "64 requests at once", "base64"}
    assert report["requests"] < 400


def test_our_own_server_is_right_with_the_api_of_tei(
    live: Any, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", live.url + "/embed", "--bundle", str(bundle), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "right: " in shown
    assert "tei API" in shown


def test_a_wrong_server_ends_with_3_and_the_reason(
    minilm_tokens: MiniLm, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(ClsPooling(minilm_tokens), {"/v1/embeddings"}) as url:
        assert run(["audit", f"{url}/v1", "--bundle", str(bundle)]) == 3
    shown = capsys.readouterr().out
    assert "1. pooling: the server uses cls pooling, and the model uses mean pooling" in shown
    assert "wrong: " in shown


def test_an_api_is_found_by_asking(minilm_tokens: MiniLm, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = PlainServer(minilm_tokens)
    server.largest = 32
    with listening(server, {"/api/embed"}) as url:
        assert run(["audit", url, "--bundle", str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["api"], report["model"]) == ("ollama", "minilm")
    assert any("requests of more than 32 texts were rejected" in each for each in report["remarks"])


def test_an_address_without_an_api_is_explained(bundle: Path, capsys: pytest.CaptureFixture[str], live: Any) -> None:
    assert run(["audit", live.url + "/nothing", "--bundle", str(bundle)]) == 2
    error = capsys.readouterr().err
    assert "answers no embeddings request: openai at /v1/embeddings (status 404" in error
    assert run(["audit", "http://127.0.0.1:9", "--bundle", str(bundle)]) == 1
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--bundle", "x", "--checkpoint", "y"]])
def test_one_model_is_needed(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "http://127.0.0.1:9", *options]) == 2
    assert "--bundle or --checkpoint, one of them" in capsys.readouterr().err


def test_a_key_is_sent_and_not_sent_on_to_where_the_server_redirects(
    minilm_tokens: MiniLm, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, str | None]] = []

    class Redirects(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, self.headers["authorization"]))
            self.send_response(307)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    keys = tmp_path / "keys"
    keys.write_text(KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirects) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        arguments = ["--bundle", str(bundle), "--api", "tei", "--api-key-file", str(keys)]
        assert run(["audit", url, *arguments]) == 1
        server.shutdown()
    assert "redirects (307)" in capsys.readouterr().err
    assert seen == [("/embed", f"Bearer {KEY}")]


def test_a_checkpoint_is_exported_in_another_process(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path
) -> None:
    """The export itself has its own tests: here a program that copies a bundle takes its place."""
    commands: list[list[str]] = []
    original: Callable[..., Any] = checkpoint.subprocess.run

    def copy(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return original(["cp", "-r", str(bundle), command[command.index("--out") + 1]], **options)

    monkeypatch.setattr(checkpoint.subprocess, "run", copy)
    with exported("organisation/model") as folder:
        assert (folder / "bundle.json").is_file()
    assert not folder.exists()
    assert commands[0][3:6] == ["embedship", "export", "organisation/model"]
    assert commands[0][-4:] == ["--variants", "onnx", "--json", "--quiet"]


def test_a_checkpoint_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the checkpoint cannot be exported"), exported(str(tmp_path / "none")):
        pass
