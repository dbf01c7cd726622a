"""The server as a strict container runs it: not root, nothing to write to but what it is told, and no way out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from embedship.encoder import Encoder
from embedship.golden_texts import ALONE_FLOOR

from . import confinement
from .conftest import Live, launched

SECONDS = 60
TEXTS = ["How do I open a file?", "zip two lists"]
WORLD_WRITABLE = [Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm")]


def confined(read: tuple[Path, ...], write: tuple[Path, ...] = ()) -> list[str]:
    """The beginning of a command that is to run in there."""
    paths = [word for path in read for word in ("--read", str(path))]
    paths += [word for path in write for word in ("--write", str(path))]
    return [sys.executable, "-P", confinement.__file__, *paths, "--"]


def run(code: str, *write: Path) -> subprocess.CompletedProcess[str]:
    """Python code in there, which is told the folders that it may write to."""
    command = [*confined((), write), sys.executable, "-P", "-c", code, *map(str, write)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    if run("").returncode == confinement.NOT_HERE:
        pytest.skip("needs root, or user namespaces")


@contextmanager
def server(bundle: Path, index: Path, *arguments: str, write: tuple[Path, ...] = ()) -> Iterator[Live]:
    options = (str(bundle), "--index", str(index), *arguments)
    with launched(*options, before=confined((bundle, index), write), HOME="/nowhere") as live:
        yield live


def right(live: Live, bundle: Path) -> None:
    """Texts and searches are answered, with the vectors of an encoder that is not confined."""
    rows = np.array(httpx.post(f"{live.url}/embed", json={"inputs": TEXTS}, timeout=SECONDS).json())
    with Encoder.open(bundle) as encoder:
        assert np.sum(rows * encoder.encode(TEXTS), axis=1).min() > ALONE_FLOOR
    for mode in ("dense", "keyword"):
        found = httpx.post(f"{live.url}/search", json={"query": TEXTS, "mode": mode}, timeout=SECONDS)
        assert found.status_code == 200, found.text


def ends_well(live: Live) -> None:
    """By itself: neither by an error, nor killed for a connection."""
    live.process.send_signal(signal.SIGTERM)
    assert live.end(SECONDS) == 0, live.log[-10:]


def test_the_confinement_confines(tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    code = """
import os, sys
from pathlib import Path
for folder in ("/tmp", "/var/tmp", "/", "/dev/shm", os.path.dirname(sys.executable)):
    try:
        (Path(folder) / "written").touch()
        print("wrote to", folder)
    except OSError:
        pass
(Path(sys.argv[1]) / "written").touch()
print(os.getuid())
"""
    answer = run(code, tmp_path)
    assert answer.stdout == f"{os.getuid() or confinement.USER}\n", answer.stdout + answer.stderr
    assert (tmp_path / "written").exists()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        away = run(f"import socket; socket.create_connection(('127.0.0.1', {port})); print('connected')")
    assert (away.returncode, away.stdout) == (-signal.SIGSYS, "")


def test_it_needs_no_root_no_writable_file_and_no_connection(bundle: Path, index_folder: Path) -> None:
    before = owned()
    with server(bundle, index_folder) as live:
        status = Path(f"/proc/{live.process.pid}/status").read_text()
        assert f"Uid:\t{os.getuid() or confinement.USER}\t" in status
        assert "CapEff:\t0000000000000000" in status
        right(live, bundle)
        assert listening(live.process.pid) == {"127.0.0.1"}, "loopback, unless it is told otherwise"
        ends_well(live)
    assert owned() == before


def test_worker_processes_need_no_more(bundle: Path, index_folder: Path) -> None:
    with server(bundle, index_folder, "--devices", "cpu:0") as live:
        right(live, bundle)
        ends_well(live)


def test_it_writes_where_it_is_told_and_nowhere_else(bundle: Path, index_folder: Path, tmp_path: Path) -> None:
    state, cache = tmp_path / "state", tmp_path / "cache"
    state.mkdir()
    cache.mkdir()
    before = owned()
    folders = ("--state-dir", str(state), "--cache", str(cache))
    with server(bundle, index_folder, *folders, write=(state, cache)) as live:
        right(live, bundle)
        ends_well(live)
    assert [each.name for each in state.iterdir()], "the monitor's memory"
    assert owned() == before


def owned() -> set[Path]:
    """Files of that user in the folders where anybody may write; of any other user only what its name says is ours."""
    if os.getuid():
        return set()
    found = (path for folder in WORLD_WRITABLE for path in folder.iterdir())
    return {path for path in found if path.lstat().st_uid == confinement.USER}


def listening(pid: int) -> set[str]:
    connections: list[Any] = psutil.Process(pid).net_connections("inet")
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
