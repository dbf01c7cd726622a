"""A soak: minutes of open-loop load on worker processes, one of which is killed every minute. Nothing may be lost.

Capacity is measured first, by clients that ask as fast as they are answered; then requests are sent at 0.7 of it, at
random times that do not wait for answers (Poisson), and timed from when they were due. Every vector of every answer is
compared with the one that its text gets alone, in this process. Memory is that of the server and its workers.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import bundled
import numpy as np
import psutil
import record
import served
from rich.console import Console

from embedship import stdlib_docs
from embedship.codes import Vectors, cosine
from embedship.encoder import Encoder
from embedship.golden_texts import batch_invariance_floor

WORK = Path(__file__).parents[1] / ".bench" / "soak"
SHARE = 0.7  # of capacity
CLIENTS = 64  # connections: more than ever wait at this load
TEXTS = 512
PER_REQUEST = 4
TIMEOUT = 60.0
GOAL = 1.05  # memory at the end to memory after the first minute

console = Console(width=100)
local = threading.local()
Answer = TypeVar("Answer")


class Plan(NamedTuple):
    """Of a run: seconds of load, between kills, and of the measurement of capacity."""

    seconds: float
    kill_every: float
    capacity_seconds: float


class Asked(NamedTuple):
    """One request: seconds from when it was due to its answer, and what came of it: right, wrong or lost, and why."""

    due: float
    seconds: float
    outcome: str
    why: str = ""


class Truth(NamedTuple):
    """The texts, the (n, dim) vectors they get alone, and the cosine below which an answer is wrong."""

    texts: list[str]
    vectors: Vectors
    floor: float


class Server(NamedTuple):
    process: psutil.Process
    port: int

    def workers(self) -> list[psutil.Process]:
        return [each for each in self.process.children() if "embedship.serve.devices.worker_main" in _command(each)]

    def memory(self) -> int:
        return sum(_resident(each) for each in (self.process, *self.workers()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--devices", default="cpu:0,cpu:1")
    parser.add_argument("--bundle", type=Path, help="default: all-MiniLM-L6-v2, exported once")
    parser.add_argument("--quick", action="store_true", help="30 s and two kills, to see that it works; not kept")
    options = parser.parse_args()
    plan = Plan(30.0, 10.0, 3.0) if options.quick else Plan(60.0 * options.minutes, 60.0, 10.0)
    WORK.mkdir(parents=True, exist_ok=True)
    bundle = options.bundle or bundled.made(WORK)
    truth = _truth(bundle)
    with served.embedship(bundle, WORK / "serve.log", "--devices", options.devices) as started:
        result = _soak(Server(psutil.Process(started.process.pid), started.address.port), truth, plan)
    result = record.circumstances() | {"benchmark": "soak", "devices": options.devices} | result
    _print(result)
    if options.quick:
        print(json.dumps(result))
    else:
        record.keep("soak", result)
    raise SystemExit(bool(result["lost"] or result["wrong"]))


def _soak(server: Server, truth: Truth, plan: Plan) -> dict[str, Any]:
    capacity = _capacity(server, truth, plan.capacity_seconds)
    rate = SHARE * capacity
    console.print(f"capacity {capacity:.0f} requests/s of {PER_REQUEST} texts; {rate:.0f} for {plan.seconds:.0f} s")
    over, killed, memory = threading.Event(), list[float](), list[tuple[float, int]]()
    began = time.perf_counter()
    beside = [
        threading.Thread(target=_kill, args=(server, plan.kill_every, over, killed)),
        threading.Thread(target=_weigh, args=(server, over, memory)),
    ]
    for thread in beside:
        thread.start()
    asked = _open_loop(server, truth, rate, plan.seconds)
    over.set()
    for thread in beside:
        thread.join()
    return _summary(asked, capacity, killed, began, [(at - began, size) for at, size in memory], plan)


def _summary(
    asked: list[Asked],
    capacity: float,
    killed: list[float],
    began: float,
    memory: list[tuple[float, int]],
    plan: Plan,
) -> dict[str, Any]:
    right = [each for each in asked if each.outcome == "right"]
    took = [1_000 * each.seconds for each in right]
    settled = _around(memory, plan.kill_every), _around(memory, plan.seconds)
    return {
        "seconds": plan.seconds,
        "capacity_requests": capacity,
        "texts_per_request": PER_REQUEST,
        "requests": len(asked),
        "lost": sum(each.outcome == "lost" for each in asked),
        "wrong": sum(each.outcome == "wrong" for each in asked),
        "why": sorted({each.why for each in asked if each.why})[:5],
        "killed_at": [round(at - began, 1) for at in killed],
        "milliseconds": {f"p{q}": float(np.percentile(took, q)) for q in (50, 95, 99, 99.9)} if took else {},
        "memory_mib": [(round(at), round(size / 2**20)) for at, size in memory[:: max(1, len(memory) // 60)]],
        "memory_end_to_first_minute": settled[1] / settled[0],
        "goal": {"lost": 0, "wrong": 0, "memory_end_to_first_minute": GOAL},
    }


def _around(memory: list[tuple[float, int]], moment: float) -> float:
    """Median memory of the quarter of a minute before a moment: a kill comes after it, and was mended long before."""
    return float(np.median([size for at, size in memory if moment - 15.0 <= at <= moment] or [memory[0][1]]))


def _capacity(server: Server, truth: Truth, seconds: float) -> float:
    """Requests a second, after a warm-up."""
    _closed_loop(server, truth, min(3.0, seconds))
    return _closed_loop(server, truth, seconds) / seconds


def _closed_loop(server: Server, truth: Truth, seconds: float) -> int:
    """Requests answered to four clients a worker, who ask without a pause."""
    clients, end = 4 * len(server.workers()), time.perf_counter() + seconds
    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(lambda seed: _until(server, truth, seed, end), range(clients)))


def _until(server: Server, truth: Truth, seed: int, end: float) -> int:
    draw, count = np.random.default_rng(seed), 0
    while time.perf_counter() < end:
        asked = _ask(server, truth, draw.integers(0, TEXTS, PER_REQUEST), time.perf_counter())
        if asked.outcome != "right":
            raise SystemExit(f"{asked.outcome} while nobody was killed: {asked.why}")
        count += 1
    return count


def _open_loop(server: Server, truth: Truth, rate: float, seconds: float) -> list[Asked]:
    draw = np.random.default_rng(7)
    due = np.cumsum(draw.exponential(1.0 / rate, int(rate * seconds * 1.2) + 10))
    due = due[due < seconds]
    rows = draw.integers(0, TEXTS, (len(due), PER_REQUEST))
    began = time.perf_counter() + 0.1

    def client(number: int) -> Asked:
        at = began + due[number]
        time.sleep(max(0.0, at - time.perf_counter()))
        return _ask(server, truth, rows[number], at)

    # The pool takes them in order, so a free client always has the next one that is due.
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(client, range(len(due))))


def _ask(server: Server, truth: Truth, rows: Any, due: float) -> Asked:
    body = json.dumps({"texts": [truth.texts[row] for row in rows], "dtype": "float32"})
    try:
        status, raw = _post(server.port, body)
    except (OSError, http.client.HTTPException) as error:
        local.connection = None
        return Asked(due, 0.0, "lost", repr(error))
    seconds = time.perf_counter() - due
    if status != 200:
        return Asked(due, seconds, "lost", f"{status} {raw[:200]!r}")
    vectors = np.frombuffer(raw, "<f4").reshape(len(rows), -1)
    worst = float(cosine(vectors, truth.vectors[rows]).min())
    if not worst >= truth.floor:
        return Asked(due, seconds, "wrong", f"cosine {worst:.5f}")
    return Asked(due, seconds, "right")


def _post(port: int, body: str) -> tuple[int, bytes]:
    """On this thread's own connection."""
    connection = getattr(local, "connection", None)
    if connection is None or connection.port != port:
        connection = local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("POST", "/v1/encode", body, {"Accept": "application/octet-stream"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def _kill(server: Server, every: float, over: threading.Event, killed: list[float]) -> None:
    """kill -9 of one worker after the other, each `every` seconds."""
    turn = 0
    while not over.wait(every):
        workers = server.workers()
        if not workers:
            continue
        workers[turn % len(workers)].kill()
        killed.append(time.perf_counter())
        turn += 1


def _weigh(server: Server, over: threading.Event, memory: list[tuple[float, int]]) -> None:
    while not over.wait(1.0):
        memory.append((time.perf_counter(), server.memory()))


def _resident(process: psutil.Process) -> int:
    return _asked_of(lambda: int(process.memory_info().rss), 0)


def _command(process: psutil.Process) -> list[str]:
    return _asked_of(process.cmdline, [])


def _asked_of(question: Callable[[], Answer], gone: Answer) -> Answer:
    """What a process that may just have been killed answers."""
    try:
        return question()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return gone


def _truth(bundle: Path) -> Truth:
    texts = [entry.body[:800] for entry in stdlib_docs.entries(TEXTS)]
    with Encoder.open(bundle) as encoder:
        floors = encoder.bundle.manifest.floors[encoder.engine.precision]
        alone = np.concatenate([encoder.encode([text]) for text in texts])
        return Truth(texts, alone, batch_invariance_floor(encoder.variant, floors))


def _print(result: dict[str, Any]) -> None:
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in result["milliseconds"].items())
    console.print(f"{result['requests']:,} requests, {len(result['killed_at'])} workers killed: {times}")
    console.print(f"lost {result['lost']}, wrong {result['wrong']} {result['why'] or ''}")
    console.print(f"memory at the end to after the first minute: {result['memory_end_to_first_minute']:.3f}")


if __name__ == "__main__":
    main()
