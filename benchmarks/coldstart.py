"""Cold start: from the start of the process to the first 200 of /ready, and to the first right vector.

Once with the files in the page cache, as a container that is started again, and once without, as on a new node: they
are dropped (posix_fadvise), and how much of them really went is measured, for other processes may hold them. A vector
is right if its cosine to the checkpoint's is at least the bundle's floor. Servers get two cores.

The bundle exported for it has no drift reference, and no index is served, unless --reference and --index name them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bundled
import numpy as np
import psutil
import record
from pagecache import drop
from rich.console import Console
from served import free_port

from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.golden_texts import GoldenTexts
from embedship.serve.offline import references

WORK = Path(__file__).parents[1] / ".bench" / "coldstart"
GOAL_SECONDS = 3.0
CORES = 2
LIMIT_SECONDS = 120.0
POLL_SECONDS = 0.005

console = Console(width=100)


class Question(NamedTuple):
    """A golden text, its (dim,) vector from the checkpoint, and the cosine below which an answer is wrong."""

    text: str
    vector: Vectors
    floor: float


class Start(NamedTuple):
    """Seconds since the process was started; `said` is what the server says, from the first line of its own code.

    `cpu` is computing time until it was ready, of all its threads: that does not grow with the load of the machine.
    """

    ready: float
    vector: float
    said: float
    cpu: float


class Served(NamedTuple):
    """What a server is started with."""

    bundle: Path
    reference: Path | None
    index: Path | None

    @property
    def flags(self) -> list[str]:
        given = {"--reference": self.reference, "--index": self.index}
        return [str(self.bundle), *(word for flag, path in given.items() if path for word in (flag, str(path)))]

    @property
    def files(self) -> list[Path]:
        """All that a start may read of them."""
        places = [place for place in self if place]
        return [path for place in places for path in (place.rglob("*") if place.is_dir() else [place])]

    def sentence(self) -> str:
        reference = "a drift reference" if references.find(Bundle.open(self.bundle), self.reference) else "no reference"
        return f"served: a bundle, {reference}, {'an index' if self.index else 'no index'}"


class Running(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    began: float
    log: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--bundle", type=Path, help="default: all-MiniLM-L6-v2, exported once")
    parser.add_argument("--reference", type=Path, help="a drift reference to serve with (default: the bundle's)")
    parser.add_argument("--index", type=Path, help="an index to serve with (default: none)")
    parser.add_argument("--quick", action="store_true", help="two runs of each, to see that it works; not kept")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    served = Served(options.bundle or bundled.made(WORK), options.reference, options.index)
    result = record.circumstances() | {"benchmark": "coldstart", "cores": CORES, "load": os.getloadavg()[0]}
    result |= {"served": served.sentence()} | _measure(served, 2 if options.quick else options.runs)
    result |= {"goal_seconds": GOAL_SECONDS, "met": result["warm"]["ready_seconds"]["median"] <= GOAL_SECONDS}
    _print(result)
    record.keep("coldstart", result | ({"quick": True} if options.quick else {}))


def _measure(served: Served, runs: int) -> dict[str, Any]:
    """Cold and warm in turn, so that what else the machine does meets both."""
    question = _question(Bundle.open(served.bundle))
    files = _read_by_a_server(served)
    cold, warm, dropped = [], [], []
    for number in range(runs):
        console.print(f"run {number + 1} of {runs}")
        dropped.append(drop(files))
        cold.append(_start(served, question))
        warm.append(_start(served, question))
    return {"warm": _figures(warm), "cold": _figures(cold) | {"dropped_share": record.spread(dropped)}}


def _question(bundle: Bundle) -> Question:
    golden = GoldenTexts.load(bundle)
    text = golden.real[0]
    floor = min(each.minimum for each in bundle.manifest.floors.values())
    return Question(text, golden.vectors[golden.texts.index(text)], floor)


def _read_by_a_server(served: Served) -> list[Path]:
    """Modules, libraries and weights: what a running one has mapped, and the modules that its code loads."""
    code = "import sys, embedship.serve.main, openvino, onnxruntime, tokenizers, scipy.stats\n"
    code += "for m in list(sys.modules.values()): print(getattr(m, '__cached__', None), getattr(m, '__file__', None))"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    with _server(served) as running:
        _until(lambda: _ready(running.port))
        mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
    names = {*loaded.split(), *re.findall(r"(/\S+)$", mapped, re.MULTILINE)}
    found = [Path(name) for name in names if name.startswith("/")]
    return [path for path in (*found, *served.files) if path.is_file()]


def _start(served: Served, question: Question) -> Start:
    with _server(served) as running:
        ready = _until(lambda: _ready(running.port)) - running.began
        spent = psutil.Process(running.process.pid).cpu_times()
        vector = _until(lambda: _right(running.port, question)) - running.began
        said = re.search(r"ready in ([\d.]+) s", running.log.read_text())
    return Start(ready, vector, float(said[1]) if said else float("nan"), spent.user + spent.system)


@contextmanager
def _server(served: Served) -> Iterator[Running]:
    """As a container starts it; on the first cores that this process may use."""
    port, log = free_port(), WORK / "serve.log"
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    command = [
        sys.executable,
        "-P",
        "-m",
        "embedship",
        "serve",
        *served.flags,
        "--port",
        str(port),
        "--drain-seconds",
        "0",
    ]
    with log.open("w") as file:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=file, stderr=file)
    os.sched_setaffinity(process.pid, cores)
    try:
        yield Running(process, port, began, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _until(done: Callable[[], bool]) -> float:
    """The moment at which it was."""
    end = time.perf_counter() + LIMIT_SECONDS
    while not done():
        if time.perf_counter() > end:
            raise SystemExit(f"not within {LIMIT_SECONDS:.0f} s; the server says:\n{(WORK / 'serve.log').read_text()}")
        time.sleep(POLL_SECONDS)
    return time.perf_counter()


def _ready(port: int) -> bool:
    return _ask(port, "GET", "/ready") is not None


def _right(port: int, question: Question) -> bool:
    answer = _ask(port, "POST", "/embed", {"inputs": question.text})
    if answer is None:
        return False
    cosine = float(np.dot(np.asarray(answer[0], dtype=np.float32), question.vector))
    if cosine < question.floor:
        raise SystemExit(f"a wrong vector: cosine {cosine:.5f} to the checkpoint's, the floor is {question.floor}")
    return True


def _ask(port: int, method: str, path: str, body: object = None) -> Any:
    """The answer to a 200; None while there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == 200 else None
    except (ConnectionError, TimeoutError):
        return None
    finally:
        connection.close()


def _figures(starts: list[Start]) -> dict[str, Any]:
    return {f"{name}_seconds": record.spread([getattr(start, name) for start in starts]) for name in Start._fields}


def _print(result: dict[str, Any]) -> None:
    console.print(result["served"])
    for cache in ("warm", "cold"):
        ready, vector = (result[cache][f"{name}_seconds"] for name in ("ready", "vector"))
        console.print(
            f"{cache} page cache: ready after {ready['median']:.2f} s ({ready['lowest']:.2f} to "
            f"{ready['highest']:.2f}), first right vector after {vector['median']:.2f} s, "
            f"{result[cache]['cpu_seconds']['median']:.2f} s of computing"
        )
    share = result["cold"]["dropped_share"]["median"]
    console.print(f"of the files' pages {share:.0%} were dropped; load of the machine {result['load']:.1f}")
    console.print(f"goal: ready within {GOAL_SECONDS:g} s, warm: {'met' if result['met'] else 'missed'}")


if __name__ == "__main__":
    main()
