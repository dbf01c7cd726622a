"""`embedship check`: a server seen from outside, by the vectors it gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import msgspec
import pytest

from embedship.bundle import Bundle, ModelSpec
from embedship.commands.main import run
from embedship.errors import EngineError, UsageError
from embedship.serve import client
from embedship.serve.client import ServerClient
from embedship.serve.commands.check import _options_without_prompt

KEY = "k" * 32


def test_a_right_server_passes(live: Any, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", live.url, "--bundle", str(bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fingerprint"] == Bundle.open(bundle).fingerprint
    assert found["texts"] == 14
    assert found["cosine_minimum"] > 0.98
    assert run(["check", live.url, "--bundle", str(bundle)]) == 0
    assert "14 golden texts" in capsys.readouterr().out


def test_keys(launch: Callable[..., Any], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# of the tests\n{KEY}\n")
    live = launch("--api-key-file", str(keys))
    assert run(["check", live.url, "--bundle", str(bundle), "--api-key-file", str(keys)]) == 0
    assert run(["check", live.url, "--bundle", str(bundle)]) == 2
    assert "--api-key-file" in capsys.readouterr().err


@pytest.fixture
def turned(live: Any) -> Iterator[dict[str, Any]]:
    """A server in front of the real one, which passes on what it says, changed by `how`."""
    state: dict[str, Any] = {"how": lambda path, answer: answer}

    class Between(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass(httpx.get(live.url + self.path, timeout=60))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._pass(httpx.post(live.url + self.path, content=body, timeout=60))

        def _pass(self, answer: httpx.Response) -> None:
            content = json.dumps(state["how"](self.path, answer.json())).encode()
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Between) as server:
        state["url"] = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def test_wrong_vectors_are_found(turned: Any, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", turned["url"], "--bundle", str(bundle)]
    assert run(command) == 0, "passed on as they are"
    turned["how"] = lambda path, answer: [row[::-1] for row in answer] if path == "/embed" else answer
    assert run(command) == 3
    assert "wrong vectors" in capsys.readouterr().err
    turned["how"] = lambda path, answer: [[float("nan")] * len(row) for row in answer] if path == "/embed" else answer
    assert run(command) in (1, 3), "NaN is no JSON, and no vector"


def test_another_bundle_is_found(turned: Any, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned["how"] = lambda path, answer: {**answer, "fingerprint": "0" * 64}
    assert run(["check", turned["url"], "--bundle", str(bundle)]) == 4
    assert "fingerprint 000000000000" in capsys.readouterr().err


def test_silence_is_a_sentence(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "http://127.0.0.1:9", "--bundle", str(bundle)]) == 1
    assert "returned no valid embedship response" in capsys.readouterr().err
    assert run(["check", "127.0.0.1:9", "--bundle", str(bundle)]) == 2


def test_bare_texts_are_asked_for(bundle: Path) -> None:
    model = Bundle.open(bundle).manifest.pipeline

    def having(default: str | None, **prompts: str) -> ModelSpec:
        return msgspec.structs.replace(model, default_prompt=default, prompts=prompts)

    assert _options_without_prompt(having(None, query="q: ")) == {}
    assert _options_without_prompt(having("document", query="q: ", document="")) == {}
    assert _options_without_prompt(having("query", query="q: ", document="")) == {"prompt_name": "document"}
    with pytest.raises(UsageError, match="embedship verify"):
        _options_without_prompt(having("query", query="q: "))


class _Elsewhere(BaseHTTPRequestHandler):
    """Redirects to the port in its path, or notes that it was asked, and with which key."""

    asked: list[str | None] = []  # noqa: RUF012 - of the one server of the test

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", f"http://localhost:{self.path.split('/')[2]}/info")
        else:
            self.asked.append(self.headers["authorization"])
            self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_key_is_not_sent_on_to_where_the_server_redirects() -> None:
    """The server is not proven yet: it may be anybody's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        ask = ServerClient(f"http://127.0.0.1:{server.server_port}/to/{server.server_port}", None, 10)
        ask._headers = {"Authorization": f"Bearer {KEY}"}
        with pytest.raises(EngineError, match=r"redirects \(302\).*The API key was not sent on"):
            ask("/info", dict)
        server.shutdown()
    assert _Elsewhere.asked == []


def test_an_answer_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(1_000):
                    self.wfile.write(bytes(65_536))

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(client, "_MAX_RESPONSE_BYTES", 1 << 20)
    with ThreadingHTTPServer(("127.0.0.1", 0), Long) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(EngineError, match="more than 1 MiB"):
            ServerClient(f"http://127.0.0.1:{server.server_port}", None, 10)("/info", dict)
        server.shutdown()
