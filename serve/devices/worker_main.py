"""The worker process of a device: opens its engine, and answers batches until its parent closes the pipe or dies.

    python -m embedship.serve.devices.worker_main NAME CONTROL CHANNEL...

CONTROL and the CHANNELs, one a stream, are file descriptors of socket pairs whose other ends the parent holds.
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
    """What a worker process is to open; the first message on CONTROL."""

    bundle: str
    variant: str
    device: str  # as open_engine takes it
    streams: int
    parent: int  # its process id


class WorkerReady(msgspec.Struct, frozen=True, tag=True):
    """The engine is there; the answer to an Order."""

    precision: Precision


class WorkerFailed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot be opened: an EmbedshipError, by its exit code and its words; the other answer to an Order."""

    exit_code: int
    message: str


def main(arguments: list[str]) -> None:
    name, *descriptors = arguments
    control, *channels = (Connection(int(each)) for each in descriptors)
    # Ctrl-C and a stop of the whole group reach this process, too: it is the parent that drains, and ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.configure_logging(LogFormat(os.environ.get(logs.VARIABLE, LogFormat.TEXT)), name)
    order = msgspec.json.decode(control.recv_bytes(), type=WorkerConfig)
    _die_with(order.parent)
    try:
        engine, probe = _open(order)
    except EmbedshipError as error:
        control.send_bytes(msgspec.json.encode(WorkerFailed(error.exit_code, str(error))))
        return
    for channel in channels:
        Thread(target=_serve, args=(channel, engine, probe), daemon=True).start()
    control.send_bytes(msgspec.json.encode(WorkerReady(engine.precision)))
    _wait_for_the_end(control)


def _open(order: WorkerConfig) -> tuple[Engine, Batch]:
    """The engine, and a batch that it is known to encode."""
    bundle = Bundle.open(Path(order.bundle))
    bundle.verify(bundle.files_of(bundle.variant(order.variant)))
    shortest = min((row for row in GoldenTexts.load(bundle).ids if row), key=len)
    probe = pad([shortest], bundle.manifest.pipeline.pad_id)
    return open_engine(bundle, order.variant, order.streams, order.device), probe


def _serve(channel: Connection, engine: Engine, probe: Batch) -> None:
    try:
        while True:
            channel.send_bytes(_answer(channel.recv_bytes(), engine, probe))
    except (EOFError, OSError):
        return  # the parent is gone, or wants this process to be
    except EngineError:
        # A batch may fail for its texts; an engine that fails on a golden text as well is broken for good, as a GPU is
        # after an illegal access. The parent sees the end of this process, starts another, and tries the batch there.
        logger.exception("the engine fails on golden texts as well: this worker process ends")
        os._exit(1)


def _answer(raw: bytes, engine: Engine, probe: Batch) -> bytes:
    """Raises EngineError only if the engine fails on `probe`, too."""
    number, batch = worker_protocol.read_batch(raw)
    try:
        return worker_protocol.vectors_bytes(number, engine.encode(batch))
    except EngineError as error:
        engine.encode(probe)
        return worker_protocol.failure_bytes(number, str(error))
    except Exception as error:
        logger.exception("a batch of %d texts failed", len(batch))  # and the parent waits for an answer all the same
        return worker_protocol.failure_bytes(number, f"{type(error).__name__}: {error}")


def _wait_for_the_end(control: Connection) -> None:
    """Leave at once when the parent closes CONTROL: no thread that computes may keep this process."""
    try:
        control.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)


def _die_with(parent: int) -> None:
    """Have Linux kill this process with the thread that started it, even while it is stopped or hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
