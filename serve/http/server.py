"""uvicorn, with an end that loses no request.

uvicorn alone closes the listener and every idle connection the moment SIGTERM arrives: requests that are on their way
then, and connections that the kernel has accepted for us, are reset.
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

# After SIGTERM the listener stays open until no request has come for this long. Ctrl-C has no load balancer behind it.
QUIET_SECONDS = 2.0

# Idle connections get this long for a request that is on its way; requests that run get longer.
_IDLE_SECONDS = 1.0
_FINISH_SECONDS = 15.0

# How long handshakes that have begun may take to reach the accept queue.
_HANDSHAKE_SECONDS = 0.1

# A socket filter (Linux, <linux/filter.h>) for the listener: drop a packet whose SYN flag is set, pass all others.
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
    """Bind now, so that a port in use is known before a model is loaded; connections are refused until it serves."""
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
    """Another app on a listener of its own: what watches a server must get through when its clients do not."""

    app: Any
    listener: socket.socket
    gate: ConnectionLimiter


class GracefulServer(uvicorn.Server):
    """Serves `app` on `listener` until a signal comes and the drain is over, then returns; and `side`, just as long.

    The listener is given to uvicorn as a duplicate: closing that one detaches it from the event loop, while the kernel
    goes on accepting for the original.
    """

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        gate: ConnectionLimiter,
        drain: GracefulShutdown,
        listening: Callable[[], None],
        rounds: Callable[[], Coroutine[Any, Any, None]] | None = None,
        side: MetricsListener | None = None,
    ) -> None:
        """`listening` is called once it does; `rounds` runs beside the requests from then on, to the end."""
        super().__init__(_config(app, gate))
        self._side = side
        self._side_state = ServerState()
        self._listener = listener
        self._drain = drain
        self._listening = listening
        self._rounds = rounds
        self._beside: asyncio.Task[None] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run([self._listener.dup()])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._side:
            await self._open(self._side)
        self._listening()
        if self._rounds:
            self._beside = asyncio.create_task(self._rounds())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. A second Ctrl-C finds no handler and ends the process at once."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self._drain.draining:
            self._drain.begin(0.0 if sig == signal.SIGINT else QUIET_SECONDS)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._drain.may_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._beside:
            self._beside.cancel()
            await asyncio.wait([self._beside])
        await self._close_listener()
        await self._until(lambda: not self.server_state.connections, _IDLE_SECONDS)
        for connection in [*self.server_state.connections, *self._side_state.connections]:
            connection.shutdown()
        await self._until(lambda: not self.server_state.connections and not self.server_state.tasks, _FINISH_SECONDS)

    async def _open(self, side: MetricsListener) -> None:
        config = _config(side.app, side.gate)
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
    async def _until(done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:  # noqa: ASYNC110 - uvicorn tells nobody when a connection ends
            await asyncio.sleep(0.02)


def _config(app: Any, gate: ConnectionLimiter) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        http=type("Connection", (HttpConnection,), {"gate": gate}),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=gate.limits.idle_seconds,  # type: ignore[arg-type]  # it goes to loop.call_later
    )


def _make_protocol(config: uvicorn.Config, state: ServerState) -> asyncio.Protocol:
    kind: Any = config.http_protocol_class
    protocol: asyncio.Protocol = kind(config=config, server_state=state, app_state={})
    return protocol


def _refuse_syn(listener: socket.socket) -> None:
    """Let no new handshake begin, so that the accept queue can be emptied for good.

    A client whose SYN is dropped sends it again a second later, and is then refused. Where the system knows no such
    filter, a connection made in the microseconds between the last accept and the close is reset.
    """
    code = ctypes.create_string_buffer(_NO_MORE_SYN)
    program = struct.pack("HP", len(_NO_MORE_SYN) // 8, ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    listener.setblocking(False)
    accepted: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return accepted
        connection.setblocking(False)
        accepted.append(connection)
