"""Worker processes behind a real server: killed, stopped and orphaned, they cost nobody an answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from embedship import stdlib_docs
from embedship.encoder import Encoder
from embedship.serve import main

from .conftest import Live, launched

TEXTS = [entry.summary for entry in stdlib_docs.entries(64)]
SECONDS = 60.0
# Batch mates move an int8 vector by rounding, a text's own vector stands out from all others by far more.
SAME = 0.999


@pytest.fixture(scope="module")
def alone(bundle: Path) -> np.ndarray:
    """Each text's vector, computed with no other text beside it."""
    with Encoder.open(bundle) as encoder:
        return np.concatenate([encoder.encode([text]) for text in TEXTS])


@pytest.fixture(scope="module")
def two(bundle: Path) -> Iterator[Live]:
    with launched(str(bundle), "--devices", "cpu:0,cpu:1", "--stall-seconds", "2") as server:
        yield server


def children(server: Live) -> list[psutil.Process]:
    """Its worker processes, without those that are dead and not yet buried."""
    return [each for each in psutil.Process(server.process.pid).children() if _works(each)]


def _works(process: psutil.Process) -> bool:
    try:
        return "embedship.serve.devices.worker_main" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def ready(server: Live) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/ready", timeout=SECONDS).json()
    return answer


def whole(server: Live) -> bool:
    return ready(server)["ready"] and "of" not in ready(server)["reason"].split()[:2]


def ask(client: httpx.Client, server: Live, rows: Sequence[int]) -> np.ndarray:
    answer = client.post(f"{server.url}/embed", json={"inputs": [TEXTS[row] for row in rows]})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json(), dtype=np.float32)


def hammer(server: Live, alone: np.ndarray, clients: int, stop: Callable[[], bool]) -> int:
    """Ask from so many clients at once until `stop`; every answer must be the vectors of its own texts."""

    def one(seed: int) -> int:
        draw, asked = np.random.default_rng(seed), 0
        with httpx.Client(timeout=SECONDS) as client:
            while asked < 3 or (not stop() and asked < 500):
                rows = draw.integers(0, len(TEXTS), draw.integers(1, 9)).tolist()
                cosines = np.sum(ask(client, server, rows) * alone[rows], axis=1)
                assert cosines.min() > SAME, f"a wrong vector: {cosines}"
                asked += 1
        return asked

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(one, range(clients)))


def test_64_clients_get_the_vectors_of_their_own_texts(two: Live, alone: np.ndarray) -> None:
    assert hammer(two, alone, 64, lambda: True) == 64 * 3


def test_64_clients_of_streams_in_this_process(live: Live, alone: np.ndarray) -> None:
    assert hammer(live, alone, 64, lambda: True) == 64 * 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_a_device_lost_under_load_loses_no_request(two: Live, alone: np.ndarray, number: signal.Signals) -> None:
    until(lambda: whole(two))
    before, over = children(two), threading.Event()
    assert len(before) == 2
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(hammer, two, alone, 4, over.is_set)
        os.kill(before[0].pid, number)
        try:
            until(lambda: before[0].pid not in {each.pid for each in children(two)} and len(children(two)) == 2)
            until(lambda: whole(two))
        finally:
            over.set()
        assert load.result(SECONDS) >= 12
    assert httpx.get(f"{two.url}/health", timeout=SECONDS).status_code == 200


def test_what_was_lost_is_counted(two: Live) -> None:
    until(lambda: whole(two))
    first = children(two)[0]
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.pid not in {each.pid for each in children(two)} and whole(two))
    lines = httpx.get(f"{two.url}/metrics", timeout=SECONDS).text.splitlines()
    restarts = [float(line.split()[-1]) for line in lines if line.startswith("embedship_device_restarts_total{")]
    assert len(restarts) == 2
    assert sum(restarts) >= 1
    devices = httpx.get(f"{two.url}/info", timeout=SECONDS).json()["devices"]
    assert [each["name"] for each in devices] == ["cpu:0", "cpu:1"]
    assert sum(each["restarts"] for each in devices) == sum(restarts)


def test_no_process_outlives_its_server(bundle: Path) -> None:
    with launched(str(bundle), "--devices", "cpu:0,cpu:1") as server:
        orphans = children(server)
        assert len(orphans) == 2
        os.kill(orphans[1].pid, signal.SIGSTOP)
        server.process.kill()
        gone, alive = psutil.wait_procs(orphans, SECONDS)
    assert len(gone) == 2
    assert not alive


def test_sigterm_ends_all_of_it_with_0(bundle: Path) -> None:
    with launched(str(bundle), "--devices", "cpu:0", "--drain-seconds", "0") as server:
        workers = children(server)
        server.process.terminate()
        assert server.end(SECONDS) == 0
        assert not psutil.wait_procs(workers, SECONDS)[1]


def kill_until(server: Live, devices: set[str], seen: Callable[[], bool]) -> None:
    """Kill the worker processes of these devices until that is seen.

    On a busy machine they may be back before anybody looks, and are killed again; each time they are away for longer.
    """

    def look() -> bool:
        for each in children(server):
            with suppress(psutil.NoSuchProcess):
                if not devices.isdisjoint(each.cmdline()):
                    each.kill()
        return seen()

    until(look)


def test_ready_says_what_is_left_and_that_nothing_is(bundle: Path) -> None:
    with launched(str(bundle), "--devices", "cpu:0,cpu:1") as server:

        def answers(status: int, reason: str) -> Callable[[], bool]:
            expected = {"ready": status == 200, "reason": reason}

            def look() -> bool:
                answer = httpx.get(f"{server.url}/ready", timeout=SECONDS)
                return (answer.status_code, answer.json()) == (status, expected)

            return look

        kill_until(server, {"cpu:0"}, answers(200, "1 of 2 devices"))
        kill_until(server, {"cpu:0", "cpu:1"}, answers(503, "0 of 2 devices"))
        assert httpx.get(f"{server.url}/health", timeout=SECONDS).status_code == 200
        until(lambda: whole(server))


def post(server: Live, number: int) -> list[float]:
    answer = httpx.post(f"{server.url}/embed", json={"inputs": TEXTS[number % len(TEXTS)]}, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    rows: list[list[float]] = answer.json()
    return rows[0]


def sung(server: Live) -> bool:
    """Whether the canaries have been on every device: the next round is half a minute away."""
    lines = httpx.get(f"{server.url}/metrics", timeout=SECONDS).text.splitlines()
    sung = [float(line.split()[-1]) for line in lines if line.startswith("embedship_canary_texts_total{")]
    return len(sung) == 2 and min(sung) > 0


def one_hangs(server: Live, pool: ThreadPoolExecutor) -> list[Future[list[float]]]:
    """Stop the first worker process, and ask until a request hangs in it: another, asked later, has been answered."""
    asked: list[Future[list[float]]] = []
    until(lambda: sung(server))  # else a canary may be what hangs
    (first,) = [each for each in children(server) if "cpu:0" in each.cmdline()]  # idle streams are woken in this order
    os.kill(first.pid, signal.SIGSTOP)
    while sum(not each.done() for each in asked) != 1 or not asked[-1].done():
        assert len(asked) < len(TEXTS)
        asked.append(pool.submit(post, server, len(asked)))
        wait(asked[-1:], 0.2, FIRST_COMPLETED)
    return asked


def test_a_pass_that_hangs_when_sigterm_comes_costs_nobody_an_answer(bundle: Path, alone: np.ndarray) -> None:
    """The drain waits for the request, and its batch is tried again when the process that hangs has been killed."""
    with (
        launched(str(bundle), "--devices", "cpu:0,cpu:1", "--stall-seconds", "5") as server,
        ThreadPoolExecutor(len(TEXTS)) as pool,
    ):
        asked = one_hangs(server, pool)
        server.process.terminate()
        rows = [each.result(SECONDS) for each in asked]
        assert server.end(SECONDS) == 0
    assert min(float(np.dot(row, alone[i])) for i, row in enumerate(rows)) > SAME
    assert any("a forward pass has run for" in line for line in server.log)


def test_what_hangs_for_ever_does_not_keep_the_server_from_its_end(bundle: Path) -> None:
    """The promise of --drain-seconds: 20 s more. All others are answered, and no process is left."""
    patient = ("--devices", "cpu:0,cpu:1", "--stall-seconds", "3600", "--drain-seconds", "0")
    with launched(str(bundle), *patient) as server, ThreadPoolExecutor(len(TEXTS)) as pool:
        workers = children(server)
        asked = one_hangs(server, pool)
        server.process.terminate()
        assert server.end(2 * main.LAST_SECONDS) == main.GIVEN_UP
        failed = [each for each in asked if each.exception(SECONDS)]
        assert len(failed) == 1
        assert "The server had to end before this request was answered" in str(failed[0].exception())
        assert not psutil.wait_procs(workers, SECONDS)[1]
    # By its clock, which keeps the promise; a wall clock would also count what the machine stalls.
    assert server.log[-1].endswith("stopped: what still ran was given up\n")
    assert main.LAST_SECONDS < 20
