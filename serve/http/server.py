"""HTTP server: uvicorn with a graceful shutdown that loses no request.

On SIGTERM, uvicorn alone immediately closes the listener and every idle connection. Requests in transit, and
connections that the kernel has accepted but uvicorn has not, are then reset.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import uvicorn
from uvicorn.server import ServerState

from embedship.errors import UsageError
from embedship.serve.http.connection import ConnectionLimiter, HttpConnection
from embedship.serve.service.drain import GracefulShutdown

# After SIGTERM the listener stays open until no request arrives for this long. After Ctrl-C it closes immediately.
QUIET_SECONDS = 2.0

# Time for idle connections to deliver a request in transit; running requests get _FINISH_SECONDS.
_IDLE_SECONDS = 1.0
_FINISH_SECONDS = 15.0

# Time for started TCP handshakes to reach the accept queue.
_HANDSHAKE_SECONDS = 0.1

# Socket filter for the listener (Linux, <linux/filter.h>): drop a packet whose SYN flag is set, pass all others.
_SO_ATTACH_FILTER = 26
_NO_MORE_SYN = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load byte 13 of the TCP header: the flags
        (0x45, 0, 1, 0x02),  # SYN?
        (0x06, 0, 0, 0),  # yes: drop
        (0x06, 0, 0, 0xFFFFFFFF),  # no: pass
    )
)


def bind_socket(host: str, port: int, options: str = "--host or --port") -> socket.socket:
    """Bind early, so that a port in use is reported before a model is loaded. Raises UsageError.

    Connections are refused until the server listens.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host}, port {port} ({error.strerror}): give another {options}") from None
    return listener


class MetricsListener(NamedTuple):
    """A second app with its own listener, so that monitoring reaches the server even when the main port is full."""

    app: Any
    listener: socket.socket
    limiter: ConnectionLimiter


class GracefulServer(uvicorn.Server):
    """Serves `app` on `listener`, and `side` if given, until a signal arrives and the drain is over.

    uvicorn gets a duplicate of the listener. Closing the duplicate detaches it from the event loop, while the kernel
    continues to accept connections for the original.
    """

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        limiter: ConnectionLimiter,
        drain: GracefulShutdown,
        listening: Callable[[], None],
        background: Callable[[], Coroutine[Any, Any, None]] | None = None,
        side: MetricsListener | None = None,
    ) -> None:
        """`listening` is called once when the server listens. `background` then runs until the server shuts down."""
        super().__init__(_config(app, limiter))
        self._side = side
        self._side_state = ServerState()
        self._listener = listener
        self._drain = drain
        self._listening = listening
        self._rounds = background
        self._background_task: asyncio.Task[None] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run([self._listener.dup()])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._side:
            await self._open(self._side)
        self._listening()
        if self._rounds:
            self._background_task = asyncio.create_task(self._rounds())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain at the first signal. A second Ctrl-C ends the process at once."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self._drain.draining:
            self._drain.begin(0.0 if sig == signal.SIGINT else QUIET_SECONDS)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._drain.may_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._background_task:
            self._background_task.cancel()
            await asyncio.wait([self._background_task])
        await self._close_listener()
        await self._wait_until(lambda: not self.server_state.connections, _IDLE_SECONDS)
        for connection in [*self.server_state.connections, *self._side_state.connections]:
            connection.shutdown()
        await self._wait_until(
            lambda: not self.server_state.connections and not self.server_state.tasks, _FINISH_SECONDS
        )

    async def _open(self, side: MetricsListener) -> None:
        config = _config(side.app, side.limiter)
        config.load()
        loop = asyncio.get_running_loop()
        self.servers.append(
            await loop.create_server(
                partial(_make_protocol, config, self._side_state), sock=side.listener, backlog=config.backlog
            )
        )

    async def _close_listener(self) -> None:
        for server in self.servers:
            server.close()
        _refuse_syn(self._listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        accepted = _accept_all(self._listener)
        self._listener.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            await loop.connect_accepted_socket(partial(_make_protocol, self.config, self.server_state), connection)

    @staticmethod
    async def _wait_until(done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:  # noqa: ASYNC110 - uvicorn has no event for a closed connection
            await asyncio.sleep(0.02)


def _config(app: Any, limiter: ConnectionLimiter) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        http=type("Connection", (HttpConnection,), {"limiter": limiter}),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=limiter.limits.idle_seconds,  # type: ignore[arg-type]  # it goes to loop.call_later
    )


def _make_protocol(config: uvicorn.Config, state: ServerState) -> asyncio.Protocol:
    kind: Any = config.http_protocol_class
    protocol: asyncio.Protocol = kind(config=config, server_state=state, app_state={})
    return protocol


def _refuse_syn(listener: socket.socket) -> None:
    """Drop new handshakes (SYN packets), so that the accept queue can be emptied completely.

    A client whose SYN is dropped sends it again after one second, and its connection is then refused. On systems
    without socket filters, a connection made in the microseconds between the last accept and the close is reset.
    """
    code = ctypes.create_string_buffer(_NO_MORE_SYN)
    program = struct.pack("HP", len(_NO_MORE_SYN) // 8, ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """Accept all connections in the kernel's queue, without blocking."""
    listener.setblocking(False)
    accepted: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return accepted
        connection.setblocking(False)
        accepted.append(connection)
