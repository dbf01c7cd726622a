"""Reload trial: opens new bundles and indexes once in a child process, before a running server opens them.

ONNX Runtime, OpenVINO, FAISS and SQLite parse files with C and C++ code. If a file makes one of them crash, the running
server must not crash. The child process opens the files with the same code as the server.

    python -m embedship.serve.service.reload_trial < TRIAL.json
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import msgspec
import numpy as np
import prometheus_client

from embedship.bundle import Bundle, Task
from embedship.errors import UnsafeError
from embedship.serve import api_keys
from embedship.serve.batching.admission import AdmissionController
from embedship.serve.live.backend import FolderBackend
from embedship.serve.search.address import Address
from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS, RECALL_K
from embedship.serve.service.model import open_model
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import ModelMetrics

# Time limit: enough to hash and read 100 GB at 200 MB per second, and to compute all batch shapes of a large model.
_SECONDS = 3_600.0

# Lines that the child process writes: _NEXT before each folder, _ENDED when it ends.
_NEXT, _ENDED = b"next\n", b"ended\n"


class BundleTrial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bundle"):
    """A bundle to open, and the options for that. `variant` None: the variant that is chosen for this machine."""

    path: str
    task: Task
    variant: str | None
    devices: str
    streams: int | None


class IndexTrial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="index"):
    """An index to open and search. `bundle` is the path of the bundle that it is served with."""

    path: str
    bundle: str


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Input of the child process: the folders to open, in order, and the server settings that all of them need."""

    folders: tuple[BundleTrial | IndexTrial, ...]
    cache: str | None
    batch_tokens: int
    stall_seconds: float


def plan(settings: Settings, known: frozenset[str] = frozenset()) -> Trial:
    """Return the trial of all folders that a server with these settings opens, in the order of ModelService.open.

    Bundles whose manifest has a digest in `known` are left out, because this server already opened the same files.
    Raises the errors of Bundle.open.
    """
    folders: list[BundleTrial | IndexTrial] = []

    def add_bundle(path: Path, task: Task, variant: str | None, devices: str, streams: int | None) -> None:
        if Bundle.open(path).manifest.digest not in known:
            folders.append(BundleTrial(str(path), task, variant, devices, streams))

    def add_index(bundle: Path, index: Path | Address | None) -> None:
        if isinstance(index, Path):
            folders.append(IndexTrial(str(index), str(bundle)))

    add_bundle(settings.bundle, Task.EMBED, settings.variant, settings.devices, settings.streams)
    if settings.reranker:
        add_bundle(settings.reranker, Task.RERANK, None, settings.devices, settings.streams)
    add_index(settings.bundle, settings.index)
    if settings.candidate_index:
        candidate = settings.candidate_bundle or settings.bundle
        add_bundle(candidate, Task.EMBED, None, "cpu", 1)
        add_index(candidate, settings.candidate_index)
    cache = str(settings.cache) if settings.cache else None
    return Trial(tuple(folders), cache, settings.batch_tokens, settings.stall_seconds)


def require_openable(trial: Trial, seconds: float = _SECONDS) -> None:
    """Open the folders of `trial` in a child process. Raise UnsafeError if it crashes or does not end in `seconds`.

    If the child process only rejects a folder, this is not an error here: the server then opens it and reports the
    reason.
    """
    if not trial.folders:
        return
    command = [sys.executable, "-P", "-m", "embedship.serve.service.reload_trial"]
    with subprocess.Popen(
        command,
        env=api_keys.without_secrets(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            output, _ = child.communicate(msgspec.json.encode(trial), seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            raise UnsafeError(_message(trial, output, f"did not end within {seconds:g} s")) from None
    if child.returncode < 0:
        raise UnsafeError(_message(trial, output, f"was killed by signal {-child.returncode}"))
    if not output.endswith(_ENDED):
        raise UnsafeError(_message(trial, output, f"ended with exit code {child.returncode}"))


def _message(trial: Trial, output: bytes, ending: str) -> str:
    path = trial.folders[max(output.count(_NEXT), 1) - 1].path
    return f"{path} cannot be opened: the child process that tried it {ending}: use a folder from someone you trust"


def _run(trial: Trial, report: int) -> None:
    """Open the folders of the trial. Before each folder, write a line to the file descriptor `report`."""
    for folder in trial.folders:
        os.write(report, _NEXT)
        if isinstance(folder, BundleTrial):
            _open_bundle(folder, trial)
        else:
            _search_index(folder)


def _open_bundle(tried: BundleTrial, trial: Trial) -> None:
    settings = Settings(
        bundle=Path(tried.path),
        cache=Path(trial.cache) if trial.cache else None,
        streams=tried.streams,
        devices=tried.devices,
        batch_tokens=trial.batch_tokens,
        stall_seconds=trial.stall_seconds,
    )
    counts = ModelMetrics(prometheus_client.CollectorRegistry())
    with ExitStack() as stack:
        admission = AdmissionController(settings.queue_texts)
        open_model(settings.bundle, tried.variant, tried.task, settings, admission, counts, stack)


def _search_index(tried: IndexTrial) -> None:
    opened = Bundle.open(Path(tried.bundle))
    with closing(FolderBackend.open(Path(tried.path), opened, writable=False)) as backend:
        dimension = backend.manifest.dimension
        backend.find(np.full((1, dimension), dimension**-0.5, dtype=np.float32), RECALL_K, DEFAULT_SEARCH_PARAMS)


def main() -> None:
    """Run the trial that stdin contains. Output of libraries does not reach the server."""
    report = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with suppress(OSError):  # if memory runs out, the kernel ends this process before the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(Exception):  # the server opens the folder as well, and reports the reason
        _run(msgspec.json.decode(sys.stdin.buffer.read(), type=Trial), report)
    os.write(report, _ENDED)


if __name__ == "__main__":
    main()
