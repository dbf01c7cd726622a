"""The limits of connections on the command as users run it, with keys and a port for metrics; by raw sockets."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from embedship.encoder import Encoder
from embedship.golden_texts import ALONE_FLOOR
from embedship.serve.http.connection import PROBE_CONNECTIONS

from .conftest import Live, launched

SECONDS = 60
KEY = "a-key-of-the-tests-0123456789"
HEAD = f"POST %s HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\ncontent-length: 40\r\n%s\r\n"


@pytest.fixture(scope="module")
def limited(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    limits = ("--connections", "4", "--body-seconds", "2", "--head-seconds", "2", "--max-head-bytes", "2048")
    with launched(str(bundle), *limits, "--api-key-file", str(keys), "--metrics-port", "0") as server:
        yield server


@pytest.fixture(scope="module")
def beside(limited: Live) -> str:
    """Where the metrics are."""
    found = re.search(r"metrics at (http://127\.0\.0\.1:\d+)/metrics, without a key", "".join(limited.log))
    assert found
    return found[1]


def ask(server: Live, sent: str) -> tuple[bytes, bytes]:
    """Head and body of all that comes back, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:
        client.sendall(sent.encode())
        parts = []
        while part := client.recv(65_536):
            parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    return head, body


def sample(url: str, series: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=SECONDS).text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series + " "))


def test_a_slow_body_is_told_so_in_the_shape_of_its_client_and_counted_once(limited: Live, beside: str) -> None:
    slow = 'embedship_rejections_total{reason="slow_body"}'
    gone = 'embedship_rejections_total{reason="client_gone"}'
    before = [sample(beside, each) for each in (slow, gone)]
    head, body = ask(limited, HEAD % ("/v1/embeddings", ""))
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "slow_body"
    head, body = ask(limited, HEAD % ("/embed", ""))
    assert json.loads(body)["error_type"] == "Validation"
    assert [sample(beside, each) for each in (slow, gone)] == [before[0] + 2, before[1]]


def test_a_head_that_is_too_large_likewise(limited: Live, beside: str) -> None:
    counted = 'embedship_rejections_total{reason="head_too_large"}'
    before = sample(beside, counted)
    head, body = ask(limited, HEAD % ("/v2/embed", f"x-long: {'y' * 4_000}\r\n"))
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"x-embedship-fingerprint: " in head
    assert set(json.loads(body)) == {"message", "id"}
    assert sample(beside, counted) == before + 1


def test_a_client_that_says_nothing_is_cut(limited: Live, beside: str) -> None:
    before = sample(beside, 'embedship_connections_cut_total{reason="head"}')
    assert ask(limited, "") == (b"", b"")
    assert sample(beside, 'embedship_connections_cut_total{reason="head"}') == before + 1


def test_metrics_are_on_their_own_port_without_a_key_and_nothing_else_is(limited: Live, beside: str) -> None:
    assert httpx.get(f"{limited.url}/metrics", timeout=SECONDS).status_code == 404
    assert "/metrics" not in httpx.get(f"{limited.url}/openapi.json", timeout=SECONDS).json()["paths"]
    assert {path: httpx.get(f"{beside}{path}", timeout=SECONDS).status_code for path in PATHS} == PATHS
    assert httpx.get(f"{limited.url}/info", timeout=SECONDS).status_code == 401


PATHS = {"/metrics": 200, "/health": 200, "/ready": 200, "/info": 404, "/openapi.json": 404, "/embed": 404}


def test_a_full_server_answers_probes_and_right_vectors_to_who_is_in(limited: Live, beside: str, bundle: Path) -> None:
    text, key = "How do I open a file?", {"authorization": f"Bearer {KEY}"}
    with Encoder.open(bundle) as encoder:
        expected = encoder.encode([text])[0]
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=limited.url, timeout=SECONDS)) for _ in range(4)]
        for each in clients:
            assert each.get("/health").status_code == 200
        until(lambda: sample(beside, "embedship_connections") == 4)
        refused = httpx.post(f"{limited.url}/embed", json={"inputs": text}, headers=key, timeout=SECONDS)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error_type"] == "Overloaded"
        assert httpx.get(f"{limited.url}/ready", timeout=SECONDS).status_code == 200
        rows = [each.post("/embed", json={"inputs": text}, headers=key).json()[0] for each in clients]
        assert min(np.dot(row, expected) for row in rows) > ALONE_FLOOR
        assert sample(beside, 'embedship_rejections_total{reason="crowded"}') >= 1
        assert sample(beside, 'embedship_failures_total{reason="internal"}') == 0


def until(done: Any) -> None:
    """Each look is a request to the server."""
    assert any(done() for _ in range(2_000))


def started(bundle: Path, *arguments: str, files: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "embedship", "serve", str(bundle), "--port", "0", *arguments]
    if files:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_more_connections_than_files_are_a_sentence(bundle: Path) -> None:
    ended = started(bundle, "--connections", "1000", files=512)
    assert ended.returncode == 2
    assert (
        f"--connections needs {1000 + PROBE_CONNECTIONS + 256} open files, but this process may open at most 512"
        in ended.stderr
    )


def test_a_metrics_port_in_use_is_a_sentence(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = started(bundle, "--metrics-port", str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "give another --metrics-host or --metrics-port" in ended.stderr
