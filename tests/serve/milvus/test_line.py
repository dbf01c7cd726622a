"""A server that goes away, hangs and comes back, behind a proxy that cuts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from embedship.errors import MissingExtra
from embedship.serve.milvus import Lost, Refused
from embedship.serve.milvus.address import Address
from embedship.serve.milvus.line import PAUSE_SECONDS, Line

from ...embedship.transfer.wire import Wire

SECONDS = 1.0


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with Wire(port) as wire:
        yield wire


@pytest.fixture
def line(wire: Wire) -> Iterator[Line]:
    line = Line.open(Address(f"http://127.0.0.1:{wire.port}", "any"), SECONDS)
    yield line
    line.close()


def seconds_of(line: Line) -> float:
    """What it takes to be told that the server is away."""
    began = time.monotonic()
    with pytest.raises(Lost, match=r"milvus://127.* does not answer: is it running"):
        line.ask("list_collections")
    return time.monotonic() - began


def recovered(line: Line) -> Any:
    """Asked like a client that comes again."""
    end = time.monotonic() + 20
    while True:
        try:
            return line.ask("list_collections")
        except Lost:
            assert time.monotonic() < end, "it did not come back"
            threading.Event().wait(0.05)


def test_a_server_that_is_cut_off_and_comes_back(line: Line, wire: Wire) -> None:
    known = line.ask("list_collections")
    wire.sever()
    assert seconds_of(line) < 2 * SECONDS
    assert max(seconds_of(line) for _ in range(5)) < 0.1 * SECONDS
    wire.mend()
    assert recovered(line) == known


def test_of_a_server_that_hangs_one_call_waits_and_the_others_fail_at_once(line: Line, wire: Wire) -> None:
    wire.cut_after(0, hold=True)
    assert SECONDS * 0.9 < seconds_of(line) < 4 * SECONDS
    assert max(seconds_of(line) for _ in range(5)) < 0.1 * SECONDS
    threading.Event().wait(PAUSE_SECONDS)
    probing = threading.Thread(target=seconds_of, args=(line,))
    probing.start()
    while not line._probing:
        threading.Event().wait(0.01)
    assert seconds_of(line) < 0.1 * SECONDS
    probing.join()
    wire.mend()
    recovered(line)


def test_a_refusal_is_an_answer(line: Line) -> None:
    with pytest.raises(Refused, match=r"does not do what it is asked: .*'none'"):
        line.ask("describe_collection", "none")
    assert line.ask("list_collections") is not None


def test_a_server_that_is_not_there(wire: Wire) -> None:
    wire.sever()
    with pytest.raises(Lost, match="does not answer"):
        Line.open(Address(f"http://127.0.0.1:{wire.port}", "any"), SECONDS)


def test_without_the_extra() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['pymilvus'] = None\n"
        "from embedship.cli import run\n"
        "sys.exit(run(['index', 'update', 'milvus://127.0.0.1:1/a', 'none', '--bundle', 'none']))"
    )
    assert MissingExtra("pymilvus", "milvus").exit_code == 2
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
