"""The server's side of one worker process, from its start to its end."""

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
    """A worker process. It is an Engine once `open` has returned.

    The process is a new interpreter and never a fork, because threads, CUDA and FAISS do not work after a fork. Create
    it on a thread that lives longer: Linux kills the process when that thread ends. Raises EngineError if the operating
    system cannot start a process.
    """

    def __init__(self, name: str, config: WorkerConfig) -> None:
        self.name = name
        self.streams = config.streams
        self._numbers = itertools.count()
        with ExitStack() as parent_sockets, ExitStack() as child_sockets:
            try:
                pairs = [_socket_pair(parent_sockets, child_sockets) for _ in range(1 + config.streams)]
                self._process = _start(name, [each.fileno() for _, each in pairs])
            except OSError as error:
                raise EngineError(
                    f"cannot start a worker process for {name} ({error.strerror}): "
                    "check the limits for memory, processes and open files"
                ) from None
            self._control, *channels = (Connection(each.detach()) for each, _ in pairs)
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for channel in channels:
            self._idle.put(channel)
        self._config = msgspec.json.encode(config)
        self._precision: Precision | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def precision(self) -> Precision:
        assert self._precision is not None, "precision was read before open()"
        return self._precision

    def open(self) -> None:
        """Wait until its engine is open.

        Raises the EmbedshipError that the process reports, or EngineError if the process died.
        """
        try:
            self._control.send_bytes(self._config)
            answer = msgspec.json.decode(self._control.recv_bytes(), type=WorkerReady | WorkerFailed)
        except (EOFError, OSError):
            raise EngineError(f"the worker process of {self.name} died while it started: {self._cause()}") from None
        if isinstance(answer, WorkerFailed):
            raise _ERRORS[answer.exit_code](answer.message)
        self._precision = answer.precision

    def encode(self, batch: Batch) -> Vectors:
        """Return (n, dim) float32 rows in the order of the batch.

        Raises EngineError if the batch failed, DeviceLost if the process died, DeviceDown if it was dead before.
        """
        number = next(self._numbers)
        channel = self._idle.get()
        try:
            self._send(channel, worker_protocol.batch_bytes(number, batch))
            return worker_protocol.read_answer(self._receive(channel), number)
        finally:
            self._idle.put(channel)

    def wait_ended(self, seconds: float) -> bool:
        """Return whether the process ends within `seconds`."""
        return bool(wait([self._control], seconds))

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Kill the process and wait for its end. It has no state that could be lost."""
        self.kill()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            # A driver may keep the process in the kernel. The device gets a new process anyway.
            logger.error("the worker process of %s, pid %d, was killed and has not ended", self.name, self.pid)

    def _send(self, channel: Connection, raw: bytes) -> None:
        try:
            channel.send_bytes(raw)
        except OSError:
            raise DeviceDown(f"the worker process of {self.name} has ended") from None

    def _receive(self, channel: Connection) -> bytes:
        try:
            return channel.recv_bytes()
        except (EOFError, OSError):
            raise DeviceLost(f"the worker process of {self.name} died in a batch: {self._cause()}") from None

    def _cause(self) -> str:
        """Return how the process ended. Its exit code is known shortly after its pipes are closed."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _socket_pair(parent_sockets: ExitStack, child_sockets: ExitStack) -> tuple[socket, socket]:
    """Return two connected sockets, each closed with its stack. The child process has its own copies."""
    one, other = socketpair()
    return parent_sockets.enter_context(one), child_sockets.enter_context(other)


def _start(name: str, descriptors: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "embedship.serve.devices.worker_main", name, *map(str, descriptors)]
    return subprocess.Popen(
        command, pass_fds=descriptors, stdin=subprocess.DEVNULL, env=api_keys.without_secrets(os.environ)
    )
