"""One worker process, from its start to its death, seen from the server."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from socket import socket, socketpair

import msgspec

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.errors import EmbedshipError, EngineError, GateError, UnsafeError, UsageError
from embedship.serve import api_keys
from embedship.serve.devices import DeviceDown, DeviceLost, worker_protocol
from embedship.serve.devices.worker_main import WorkerConfig, WorkerFailed, WorkerReady

logger = logging.getLogger(__name__)

_END_SECONDS = 10.0
_ERRORS: dict[int, type[EmbedshipError]] = {
    error.exit_code: error for error in (EngineError, UsageError, GateError, UnsafeError)
}


class WorkerProcess:
    """A fresh interpreter, never a fork: threads, CUDA and faiss do not survive one. An Engine once it is open.

    It must be made on a thread that outlives it, for Linux kills it when that thread ends. Raises EngineError if the
    system starts none.
    """

    def __init__(self, name: str, order: WorkerConfig) -> None:
        self.name = name
        self.streams = order.streams
        self._numbers = itertools.count()
        with ExitStack() as ours, ExitStack() as theirs:
            try:
                pairs = [_pair(ours, theirs) for _ in range(1 + order.streams)]
                self._process = _started(name, [each.fileno() for _, each in pairs])
            except OSError as error:
                raise EngineError(
                    f"no worker process for {name} ({error.strerror}): check the limits of memory, processes and files"
                ) from None
            self._control, *channels = (Connection(each.detach()) for each, _ in pairs)
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for channel in channels:
            self._idle.put(channel)
        self._order = msgspec.json.encode(order)
        self._precision: Precision | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def precision(self) -> Precision:
        assert self._precision is not None, "asked before it was open"
        return self._precision

    def open(self) -> None:
        """Wait until its engine is open. Raises the EmbedshipError that it ended with, EngineError if it just died."""
        try:
            self._control.send_bytes(self._order)
            answer = msgspec.json.decode(self._control.recv_bytes(), type=WorkerReady | WorkerFailed)
        except (EOFError, OSError):
            raise EngineError(f"the worker process of {self.name} died while it started: {self._death()}") from None
        if isinstance(answer, WorkerFailed):
            raise _ERRORS[answer.exit_code](answer.message)
        self._precision = answer.precision

    def encode(self, batch: Batch) -> Vectors:
        """Raises EngineError if the batch failed, DeviceLost if the process died of it, DeviceDown if it had before."""
        number = next(self._numbers)
        channel = self._idle.get()
        try:
            self._send(channel, worker_protocol.batch_bytes(number, batch))
            return worker_protocol.read_answer(self._receive(channel), number)
        finally:
            self._idle.put(channel)

    def ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        return bool(wait([self._control], seconds))

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Kill it, for it keeps nothing that could be lost, and wait for its end."""
        self.kill()
        try:
            self._process.wait(_END_SECONDS)
        except (
            subprocess.TimeoutExpired
        ):  # a driver may keep it in the kernel; its device is started again all the same
            logger.error("the worker process of %s, %d, does not end", self.name, self.pid)

    def _send(self, channel: Connection, raw: bytes) -> None:
        try:
            channel.send_bytes(raw)
        except OSError:
            raise DeviceDown(f"the worker process of {self.name} is gone") from None

    def _receive(self, channel: Connection) -> bytes:
        try:
            return channel.recv_bytes()
        except (EOFError, OSError):
            raise DeviceLost(f"the worker process of {self.name} died in a batch: {self._death()}") from None

    def _death(self) -> str:
        """Its exit code, which the system knows a moment after its pipes are closed."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket, socket]:
    """Two ends, each closed with its stack: the child has copies of its own."""
    one, other = socketpair()
    return ours.enter_context(one), theirs.enter_context(other)


def _started(name: str, descriptors: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "embedship.serve.devices.worker_main", name, *map(str, descriptors)]
    return subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL, env=api_keys.without(os.environ))
