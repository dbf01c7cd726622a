"""Compares hand-written parts of the product with the libraries that could replace them, in one run.

- route: one POST /tokenize through our ASGI application and through the same handler with Starlette, with and without
  our additions per request (timeout, metrics, disconnect watcher). Both applications are called in this process, so
  that the figures include no client and no socket.
- histogram: one observation and one scrape, for our histogram and prometheus_client's.
- store: durable writes, exact searches and kill -9, for our mutable index, LanceDB and sqlite-vec. Each store runs in
  its own process and gets the same requests.

Rounds are interleaved; figures are medians with the lowest and the highest round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import prometheus_client
import record
from peer import python_of
from prometheus_client import CollectorRegistry, generate_latest

from embedship import stdlib_docs
from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.serve import schemas
from embedship.serve.http.app import App
from embedship.serve.http.messages import RequestInfo
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.serve.telemetry.histogram import HistogramFamily

WORK = Path(__file__).parents[1] / ".bench" / "libraries"
PEER = Path(__file__).parent / "peers" / "peer_store.py"
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
TEXT = {"inputs": "medicine for type 2 diabetes"}
Application = Callable[[Any, Any, Any], Awaitable[None]]


def main() -> None:
    arguments = _arguments()
    rounds = 3 if arguments.quick else 9
    WORK.mkdir(parents=True, exist_ok=True)
    result = record.circumstances() | {"benchmark": "libraries", "quick": arguments.quick}
    result["route"] = asyncio.run(_routes(arguments.bundle, rounds, 200 if arguments.quick else 2_000))
    print(json.dumps(result["route"]), flush=True)
    result["histogram"] = _histograms(rounds, 2_000 if arguments.quick else 100_000)
    print(json.dumps(result["histogram"]), flush=True)
    result["store"] = _stores(arguments.bundle, rounds, 2_000 if arguments.quick else 20_000)
    record.keep("libraries", result)


async def _routes(bundle: Path, rounds: int, requests: int) -> dict[str, Any]:
    """Return microseconds per request, by application."""
    site.addsitedir(_packages_of(python_of("peer_store")))
    with ServerState.open(Settings(bundle=bundle), CollectorRegistry()) as state:
        applications: dict[str, Application] = {
            "ours": App(state),
            "starlette": _starlette(state, complete=False),
            "starlette with timeout and metrics": _starlette(state, complete=True),
        }
        bodies = [await _post(application) for application in applications.values()]
        assert bodies[0] == bodies[1] == bodies[2], "all applications give the same answer"
        taken: dict[str, list[float]] = {name: [] for name in applications}
        for _ in range(rounds):
            for name, application in applications.items():
                began = time.perf_counter()
                for _ in range(requests):
                    await _post(application)
                taken[name].append((time.perf_counter() - began) / requests * 1e6)
    return {"microseconds": {name: record.spread(values) for name, values in taken.items()}}


def _starlette(state: ServerState, complete: bool) -> Application:
    """Return a usual Starlette application with POST /tokenize. `complete` adds a timeout and request metrics."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    handler = next(
        route.handle for methods in App(state)._table.paths.values() for route in methods.values()
        if route.path == "/tokenize"
    )  # fmt: skip
    decoder = msgspec.json.Decoder(schemas.TokenizeRequest)
    registry = CollectorRegistry()
    seconds = prometheus_client.Histogram("seconds", "", ["route"], registry=registry, buckets=BOUNDS)
    requests = prometheus_client.Counter("requests", "", ["route", "status"], registry=registry)

    async def answer(request: Request) -> Response:
        reply = await handler(decoder.decode(await request.body()), RequestInfo(request.scope["headers"], ""))
        return Response(reply.body, reply.status, media_type="application/json")

    async def answer_completely(request: Request) -> Response:
        began = time.perf_counter()
        async with asyncio.timeout(60):
            response = await answer(request)
        seconds.labels("/tokenize").observe(time.perf_counter() - began)
        requests.labels("/tokenize", "2xx").inc()
        return response

    return Starlette(routes=[Route("/tokenize", answer_completely if complete else answer, methods=["POST"])])


async def _post(application: Application) -> bytes:
    body = msgspec.json.encode(TEXT)
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http", "method": "POST", "path": "/tokenize", "raw_path": b"/tokenize", "query_string": b"",
        "headers": [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http", "root_path": "",
        "http_version": "1.1",
    }  # fmt: skip

    bodies = [body]

    async def receive() -> dict[str, Any]:
        if not bodies:
            await asyncio.Event().wait()  # the client stays connected and sends nothing more
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    answer: bytes = sent[1]["body"]
    return answer


def _histograms(rounds: int, observations: int) -> dict[str, Any]:
    """Return nanoseconds per observation and microseconds per scrape."""
    registries = {"ours": CollectorRegistry(), "prometheus_client": CollectorRegistry()}
    ours = HistogramFamily("seconds", "", "route", BOUNDS, registries["ours"]).labels("/search")
    theirs = prometheus_client.Histogram(
        "seconds", "", ["route"], registry=registries["prometheus_client"], buckets=BOUNDS
    ).labels("/search")
    observers: dict[str, Callable[[float], None]] = {"ours": ours.observe, "prometheus_client": theirs.observe}
    observe: dict[str, list[float]] = {name: [] for name in observers}
    scrape: dict[str, list[float]] = {name: [] for name in observers}
    values = np.random.default_rng(0).gamma(2, 0.005, observations).tolist()
    for _ in range(rounds):
        for name, observer in observers.items():
            began = time.perf_counter()
            for value in values:
                observer(value)
            observe[name].append((time.perf_counter() - began) / observations * 1e9)
            began = time.perf_counter()
            generate_latest(registries[name])
            scrape[name].append((time.perf_counter() - began) * 1e6)
    return {
        "nanoseconds_per_observation": {name: record.spread(taken) for name, taken in observe.items()},
        "microseconds_per_scrape": {name: record.spread(taken) for name, taken in scrape.items()},
    }


def _stores(bundle: Path, rounds: int, size: int) -> dict[str, Any]:
    """Return seconds, recall and bytes per store with `size` documents, and documents lost by kills during writes."""
    entries = stdlib_docs.entries()
    vectors = WORK / "vectors.npy"
    with Encoder.open(Bundle.open(bundle)) as encoder:
        texts = [sentence for entry in entries for sentence in entry.body.split("\n") if len(sentence) > 20]
        texts = list(dict.fromkeys(texts))[: size + 4_000]
        np.save(vectors, encoder.encode(texts))
    (WORK / "texts.json").write_text(json.dumps(texts))
    size = len(texts) - 4_000
    found: dict[str, Any] = {"documents": size}
    for name in ("ours", "lancedb", "sqlite-vec"):
        shutil.rmtree(WORK / name, ignore_errors=True)
        store = _Store(name, bundle, size)
        figures = store.ask(do="open")
        batches = {"write_1": 1, "write_100": 100}
        seconds: dict[str, list[float]] = {"search": [], **{key: [] for key in batches}}
        for _ in range(rounds):
            for key, count in batches.items():
                seconds[key].append(store.ask(do="write", count=count)["seconds"])
            seconds["search"].append(store.ask(do="search", queries=100)["seconds"] / 100)
        figures |= {key: record.spread(values) for key, values in seconds.items()}
        figures |= store.ask(do="recall", queries=200)
        figures["lost_after_kill"] = store.kill_during_writes()
        found[name] = figures
        print(json.dumps({name: figures}), flush=True)
    return found


class _Store:
    """A store in its own process: one JSON request per line, one JSON response per line."""

    def __init__(self, name: str, bundle: Path, size: int) -> None:
        python = Path(sys.executable) if name == "ours" else python_of("peer_store")
        self._command = [str(python), "-P", str(PEER), name, str(WORK), str(bundle), str(size)]
        self._start()

    def _start(self) -> None:
        # LanceDB logs a warning per search otherwise.
        environment = {**os.environ, "RUST_LOG": "error", "LANCE_LOG": "error"}
        self._process = subprocess.Popen(self._command, stdin=-1, stdout=-1, text=True, env=environment)

    def ask(self, **request: object) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"{self._command[3]} ended with {self._process.wait()}"
        return json.loads(line)

    def kill_during_writes(self) -> int:
        """Return the number of acknowledged documents that are missing after SIGKILL, over five kills."""
        lost = 0
        for _ in range(5):
            assert self._process.stdin
            self._process.stdin.write(json.dumps({"do": "write_forever"}) + "\n")
            self._process.stdin.flush()
            acknowledged = [self._answer()["id"] for _ in range(20)]
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._start()
            self.ask(do="open")
            lost += self.ask(do="missing", ids=acknowledged)["missing"]
        return lost


def _packages_of(python: Path) -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
