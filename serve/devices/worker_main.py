"""The program of a worker process: opens the engine of one device and computes batches.

It runs until its parent closes the control connection or dies.

    python -m embedship.serve.devices.worker_main NAME CONTROL CHANNEL...

CONTROL and the CHANNELs (one per stream) are file descriptors of socket pairs. The parent has the other ends.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import msgspec

from embedship.batches import Batch, pad
from embedship.bundle import Bundle, Precision
from embedship.engine import open_engine
from embedship.engine.protocol import Engine
from embedship.errors import EmbedshipError, EngineError
from embedship.golden_texts import GoldenTexts
from embedship.serve.devices import worker_protocol
from embedship.serve.telemetry import logs
from embedship.serve.telemetry.logs import LogFormat

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class WorkerConfig(msgspec.Struct, frozen=True):
    """The engine that a worker process must open. It is the first message on CONTROL."""

    bundle: str
    variant: str
    device: str  # in the format of open_engine
    streams: int
    parent: int  # process id of the parent


class WorkerReady(msgspec.Struct, frozen=True, tag=True):
    """The answer to a WorkerConfig when the engine is open."""

    precision: Precision


class WorkerFailed(msgspec.Struct, frozen=True, tag=True):
    """The answer to a WorkerConfig when the engine cannot be opened: exit code and message of the EmbedshipError."""

    exit_code: int
    message: str


def main(arguments: list[str]) -> None:
    """Run a worker process with the arguments NAME CONTROL CHANNEL..."""
    name, *descriptors = arguments
    control, *channels = (Connection(int(each)) for each in descriptors)
    # Ctrl-C and SIGTERM to the process group also reach this process, and are ignored: the parent finishes its
    # requests, and then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.configure_logging(LogFormat(os.environ.get(logs.VARIABLE, LogFormat.TEXT)), name)
    config = msgspec.json.decode(control.recv_bytes(), type=WorkerConfig)
    _end_with_parent(config.parent)
    try:
        engine, probe = _open(config)
    except EmbedshipError as error:
        control.send_bytes(msgspec.json.encode(WorkerFailed(error.exit_code, str(error))))
        return
    for channel in channels:
        Thread(target=_serve, args=(channel, engine, probe), daemon=True).start()
    control.send_bytes(msgspec.json.encode(WorkerReady(engine.precision)))
    _exit_when_closed(control)


def _open(config: WorkerConfig) -> tuple[Engine, Batch]:
    """Return the engine, and a batch of the shortest golden text, which a working engine can encode."""
    bundle = Bundle.open(Path(config.bundle))
    bundle.verify(bundle.files_of(bundle.variant(config.variant)))
    shortest = min((row for row in GoldenTexts.load(bundle).ids if row), key=len)
    probe = pad([shortest], bundle.manifest.pipeline.pad_id)
    return open_engine(bundle, config.variant, config.streams, config.device), probe


def _serve(channel: Connection, engine: Engine, probe: Batch) -> None:
    try:
        while True:
            channel.send_bytes(_answer(channel.recv_bytes(), engine, probe))
    except (EOFError, OSError):
        return  # the parent has ended, or has closed the connection to end this process
    except EngineError:
        # A batch may fail because of its texts. An engine that also fails on a golden text is broken permanently, for
        # example a GPU after an illegal memory access. The parent notices that this process ends, and retries the batch
        # on a new one.
        logger.exception("the engine also fails on golden texts: this worker process ends")
        os._exit(1)


def _answer(raw: bytes, engine: Engine, probe: Batch) -> bytes:
    """Return the answer to a batch. Raises EngineError only if the engine also fails on `probe`."""
    number, batch = worker_protocol.read_batch(raw)
    try:
        return worker_protocol.vectors_bytes(number, engine.encode(batch))
    except EngineError as error:
        engine.encode(probe)
        return worker_protocol.failure_bytes(number, str(error))
    except Exception as error:
        logger.exception("a batch of %d texts failed", len(batch))  # the parent still waits for an answer
        return worker_protocol.failure_bytes(number, f"{type(error).__name__}: {error}")


def _exit_when_closed(control: Connection) -> None:
    """Exit at once when the parent closes CONTROL, without waiting for threads that compute."""
    try:
        control.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)


def _end_with_parent(parent: int) -> None:
    """Let Linux kill this process when the thread that started it ends, even if this process is stopped or hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
