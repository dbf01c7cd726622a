"""A real server that is killed while it receives documents, and one whose disk refuses writes."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import Live, launched

KEY = "a-write-key-of-the-tests"
SECONDS = 60.0


@pytest.fixture
def arguments(index_folder: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "key").write_text(KEY)
    index = shutil.copytree(index_folder, tmp_path / "index")
    return ["--index", str(index), "--writable", "--write-key-file", str(tmp_path / "key"), "--drain-seconds", "1"]


def client(server: Live) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=SECONDS)


def put(http: httpx.Client, number: int) -> httpx.Response:
    """Transaction `number`: put two documents, and delete one of the previous transaction."""
    documents = [{"id": f"{number}-{each}", "text": f"document {number} {each}"} for each in "ab"]
    return http.put("/documents", json={"documents": documents, "delete": [f"{number - 1}-a"]})


def kill_soon(server: Live, delay: float) -> None:
    threading.Timer(delay, os.kill, (server.process.pid, signal.SIGKILL)).start()


def test_a_killed_server_has_every_acknowledged_document(bundle: Path, arguments: list[str]) -> None:
    chance, number = random.Random(3), 0
    for kills in range(3):
        with launched(str(bundle), *arguments) as server, client(server) as http:
            for each in range(number):
                there = [http.get(f"/documents/{each}-{letter}").status_code for letter in "ab"]
                # The last transaction before the kill may have been written but not acknowledged.
                assert there == ([404, 200] if each < number - 1 else there), each
            if number:
                assert http.get(f"/documents/{number - 1}-b").status_code == 200
                found = http.post("/search", json={"query": f"document {number - 1} b", "k": 100}).json()
                ids = [hit["id"] for hit in found["results"][0]["hits"]]
                assert f"{number - 1}-b" in ids
                assert f"{number - 2}-a" not in ids
            if kills == 2:
                break
            before = number
            try:
                while put(http, number).status_code == 200:
                    number += 1
                    if number - before == 2:
                        kill_soon(server, chance.random() / 2)
            except httpx.TransportError:
                assert server.end(SECONDS) == -signal.SIGKILL
        assert number > 1


def limit(server: Live, size: int) -> None:
    """The largest file that it may write."""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_server_whose_disk_refuses_writes_still_searches(bundle: Path, arguments: list[str]) -> None:
    with launched(str(bundle), *arguments) as server, client(server) as http:
        assert put(http, 1).status_code == 200
        limit(server, 0)
        answer = put(http, 2)
        assert answer.status_code in (503, 507)
        assert answer.json()["error"].startswith("Nothing was written ")
        found: Any = http.post("/search", json={"query": "document 1 b", "k": 5}).json()
        assert found["results"][0]["hits"][0]["id"] in ("1-a", "1-b")
        assert http.get("/documents/2-a").status_code == 404
        assert http.get("/ready").status_code == 200
        limit(server, resource.RLIM_INFINITY)
        assert put(http, 2).status_code == 200
        assert http.get("/documents/2-a").status_code == 200
        assert http.get("/documents/1-a").status_code == 404
        server.process.send_signal(signal.SIGTERM)
        assert server.end(SECONDS) == 0
