"""A real cluster of three nodes, and the command run beside it. All their processes are marked: none may be left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
SECONDS = 300
MARK = "EMBEDSHIP_TEST_RAY"


@dataclass
class Nodes:
    process: subprocess.Popen[str]
    address: str

    def ask(self, what: str) -> None:
        """`lose` or `add` a node, and wait until it has been done."""
        assert self.process.stdin
        assert self.process.stdout
        print(what, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == f"{what}\n"


def left(mark: str) -> list[str]:
    """Processes that were started under this mark and still run, given a while to end."""
    until = time.monotonic() + 30
    while (found := _marked(mark)) and time.monotonic() < until:
        psutil.wait_procs(found, timeout=0.5)
    return [" ".join(each.cmdline()[:3]) for each in found]


def addresses(process: subprocess.Popen[str]) -> set[str]:
    """Where the processes listen that have the mark of this one."""
    mark = psutil.Process(process.pid).environ()[MARK]
    listening = []
    for found in _marked(mark):
        with suppress(psutil.Error):  # it has just ended
            connections = found.net_connections("inet")
            listening += [each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN]
    assert len(listening) > 3
    return {address.removeprefix("::ffff:") for address in listening}


def given(process: subprocess.Popen[str], variable: str) -> set[str]:
    """The values of an environment variable with which this process started others."""
    mark = psutil.Process(process.pid).environ()[MARK]
    found = set()
    for each in _marked(mark):
        with suppress(psutil.Error):  # it has just ended
            found |= {value for name, value in each.environ().items() if name == variable}
    return found


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    mark = f"nodes-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-P", str(HERE / "nodes.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path_factory.mktemp("nodes"),
        env=_environment(mark),
    )
    assert process.stdout
    assert process.stdin
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("127.0.0.1:"), "the cluster did not start"
        yield Nodes(process, address)
    finally:
        process.stdin.close()
        process.wait(SECONDS)
        process.stdout.close()
    assert left(mark) == []


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(bundle: Path, tmp_path: Path) -> Iterator[Start]:
    """`embedship encode BUNDLE ...` or another verb, in a process of its own, ended with all that it started."""
    mark, started = f"encode-{tmp_path}", []

    def begin(*arguments: object, verb: str = "encode") -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "embedship", verb, bundle, *arguments, "--variant", "openvino-int8"]
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=_environment(mark, loopback="local" not in arguments),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=SECONDS)
    assert left(mark) == []


def _environment(mark: str, loopback: bool = True) -> dict[str, str]:
    """Of a cluster on the loopback interface alone: Ray takes 127.0.0.1 for another address without this variable."""
    here = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if loopback else {}
    known = {key: value for key, value in os.environ.items() if key not in ("PYTHONWARNINGS", "RAY_ADDRESS")}
    return {**known, **here, "COLUMNS": "1000", MARK: mark}
