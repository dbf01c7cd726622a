"""Servers that benchmarks load: ours, and Infinity's, each a process of its own on a free port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from loadclient import Address
from peer import python_of

from embedship.files.atomic_folder import terminable

_START_SECONDS = 180.0

Process = subprocess.Popen[bytes]


class Unavailable(Exception):
    """A peer that does not run here, and why: it is reported, and the run goes on."""


class Server(NamedTuple):
    """Where it answers, and its process, to be weighed or stopped."""

    address: Address
    process: Process


@contextmanager
def embedship(bundle: Path, log: Path, *flags: str) -> Iterator[Server]:
    """`embedship serve` as anybody would start it. Raises RuntimeError with its log if it does not."""
    command = [sys.executable, "-P", "-m", "embedship", "serve", str(bundle), "--port", "0", *flags]
    with _running(command, log) as process:
        yield Server(Address("127.0.0.1", _announced(process, log)), process)


@contextmanager
def infinity(checkpoint: Path, log: Path, threads: int) -> Iterator[Address]:
    """Infinity with torch on the CPU, its own defaults otherwise. Raises Unavailable."""
    try:
        python = python_of("peer_infinity")
    except (subprocess.CalledProcessError, OSError) as error:
        raise Unavailable(f"its environment could not be made: {error}") from None
    port = free_port()
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", str(checkpoint), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "cpu", "--engine", "torch", "--no-trust-remote-code"]
    settings = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    settings |= {"INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with _running(command, log, settings) as process:
        _answers(process, f"http://127.0.0.1:{port}/health", log)
        yield Address("127.0.0.1", port)


@contextmanager
def _running(command: list[str], log: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Process]:
    """Ended with the benchmark, also when that is ended by Ctrl-C or SIGTERM."""
    with terminable(), log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | settings)
        try:
            yield process
        finally:
            _stop(process)


def _announced(process: Process, log: Path) -> int:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"listening on http://[^ ]*:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")


def _answers(process: Process, url: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    last = log.read_text().strip().splitlines()[-1:] or ["it said nothing"]
    raise Unavailable(f"its server did not start: {last[0][:200]}")


def _stop(process: Process) -> None:
    process.send_signal(signal.SIGCONT)  # it may be stopped, while another is measured
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
