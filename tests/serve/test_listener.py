"""The end of a server, made to happen at the worst moment."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import Any

import pytest

from embedship.errors import UsageError
from embedship.serve.http.connection import ConnectionLimiter, ConnectionLimits
from embedship.serve.http.messages import Response
from embedship.serve.http.server import GracefulServer, _refuse_syn, bind_socket
from embedship.serve.service.drain import GracefulShutdown

SECONDS = 30
GET = b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n"


@contextmanager
def serving(app: Any, drain: GracefulShutdown) -> Iterator[Callable[[], socket.socket]]:
    """A server in a thread; gives a function that opens a connection to it."""
    listener, listening = bind_socket("127.0.0.1", 0), Event()
    address = listener.getsockname()
    limiter = ConnectionLimiter(ConnectionLimits(), lambda error, path: Response(b""), lambda why: None)
    thread = Thread(target=GracefulServer(app, listener, limiter, drain, listening.set).run)
    thread.start()
    with ExitStack() as stack:
        try:
            assert listening.wait(SECONDS)
            yield lambda: stack.enter_context(socket.create_connection(address, SECONDS))
        finally:
            drain.begin(0.0)
            thread.join(SECONDS)


async def answer(send: Any) -> None:
    headers = [(b"content-length", b"2"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def received(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(4096):
        parts.append(part)
    return b"".join(parts)


class Worst(GracefulShutdown):
    """Clients come at the very moment at which the drain is found to be over: nobody but the kernel accepts them."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.meanwhile: Callable[[], None] = lambda: None

    @property
    def may_stop(self) -> bool:
        if super().may_stop:
            self.meanwhile()
        return super().may_stop


def test_what_the_kernel_has_accepted_is_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    drain, came, waiting = Worst(), Event(), []

    def come() -> None:
        for _ in range(20):
            waiting.append(connect())
            waiting[-1].sendall(GET % b"/")
        came.set()

    with serving(app, drain) as connect:
        drain.meanwhile = come
        drain.begin(0.0)
        assert came.wait(SECONDS)
        assert [received(connection)[-2:] for connection in waiting] == [b"ok"] * 20


def until_refused(connect: Callable[[], socket.socket]) -> None:
    try:
        while True:
            connect().close()
    except ConnectionRefusedError:
        return


def test_a_connection_that_is_open_may_still_ask_when_the_listener_is_closed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    drain = GracefulShutdown(0.0)
    with serving(app, drain) as connect:
        early = connect()
        drain.begin(0.0)
        until_refused(connect)
        early.sendall(GET % b"/")
        assert received(early).endswith(b"ok")


@pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux's")
def test_no_handshake_begins_any_more_but_those_that_have_begun_go_on() -> None:
    with bind_socket("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname(), SECONDS) as early:
            _refuse_syn(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(listener.getsockname(), 0.2)
            early.sendall(b"x")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(1) == b"x"


def test_a_port_in_use_is_known_before_a_model_is_loaded() -> None:
    with bind_socket("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(UsageError, match="give another --host or --port"):
            bind_socket("127.0.0.1", first.getsockname()[1])
