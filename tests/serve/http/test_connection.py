"""Clients that hold too much, by raw sockets: what they are told, when they are cut, and who still gets through."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import pytest

from embedship.serve.errors import ERROR_MAPPINGS, RequestError
from embedship.serve.http import connection
from embedship.serve.http.connection import PROBE_CONNECTIONS, ConnectionLimiter, ConnectionLimits, HttpConnection
from embedship.serve.http.messages import Response, read_body
from embedship.serve.http.server import GracefulServer, MetricsListener, bind_socket
from embedship.serve.service.drain import GracefulShutdown
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import CloseReason

SECONDS = 30
SOON = 2.0  # a client in time, or the server, may pause for most of it
GET = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
BIG = 8 * 1024 * 1024  # more than the kernel holds for a socket


class Bed:
    """A server in a thread, and what it did to its clients."""

    def __init__(self, stack: ExitStack, address: Any) -> None:
        self.cuts: SimpleQueue[CloseReason] = SimpleQueue()
        self.inside: SimpleQueue[str] = SimpleQueue()  # paths of requests that the app was asked for
        self.bodies: SimpleQueue[bytes] = SimpleQueue()
        self._stack = stack
        self._address = address

    def connect(self, sent: bytes = b"") -> socket.socket:
        made = self._stack.enter_context(socket.create_connection(self._address, SECONDS))
        made.sendall(sent)
        return made

    def why(self) -> CloseReason:
        return self.cuts.get(timeout=SECONDS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers once it has the body: with /big, a long answer. /wait waits until its client has left."""
        self.inside.put(scope["path"])
        if scope["path"] == "/wait":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.inside.put("left")
            return
        status, body = 200, b"x" * BIG if scope["path"] == "/big" else b"ok"
        try:
            self.bodies.put(await read_body(scope, receive, BIG))
        except RequestError as error:
            status, body = ERROR_MAPPINGS[type(error)].flat, error.message.encode()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]}
        )
        await send({"type": "http.response.body", "body": body})


def refuse(error: RequestError, path: str) -> Response:
    told = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
    headers = ((b"connection", b"close"), *told)
    return Response(f"{path} {error.message}".encode(), ERROR_MAPPINGS[type(error)].flat, headers=headers)


@contextmanager
def serving(kind: type[HttpConnection] | None = None, **limits: Any) -> Iterator[Bed]:
    """A server with these limits; its connections are of another `kind` if one is given."""
    listener, listening, drain = bind_socket("127.0.0.1", 0), Event(), GracefulShutdown(0.0)
    with ExitStack() as stack:
        bed = Bed(stack, listener.getsockname())
        limiter = ConnectionLimiter(ConnectionLimits(**limits), refuse, bed.cuts.put)
        server = GracefulServer(bed, listener, limiter, drain, listening.set)
        if kind:
            server.config.http = type("Watched", (kind,), {"limiter": limiter})
        thread = Thread(target=server.run)
        thread.start()
        try:
            assert listening.wait(SECONDS)
            yield bed
        finally:
            drain.begin(0.0)
            stack.close()
            thread.join(SECONDS)


def received(connection: socket.socket) -> bytes:
    """All of it, to the end of the connection; b"" also where it was reset."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answer(connection: socket.socket) -> bytes:
    """One short answer on a connection that stays open."""
    got = b""
    while not got.endswith(b"ok"):
        part = connection.recv(4096)
        assert part, got
        got += part
    return got


def test_many_requests_on_one_connection() -> None:
    with serving() as bed:
        client = bed.connect(GET % b"/" * 3)
        assert received_of(client, 3) == 3
        client.sendall(POST + b"0123456789")
        assert b"200 OK" in answer(client)
        assert bed.cuts.empty()


def received_of(client: socket.socket, count: int) -> int:
    got = b""
    while got.count(b"\r\n\r\nok") < count:
        part = client.recv(65_536)
        assert part, got[-200:]
        got += part
    return got.count(b"200 OK")


@pytest.mark.parametrize("sent", [b"", b"G", b"\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n"])
def test_who_never_ends_the_head_of_a_request_is_cut(sent: bytes) -> None:
    with serving(head_seconds=SOON) as bed:
        slow = bed.connect(sent)
        assert received(slow) == b""  # before the client's own patience of SECONDS
        assert bed.why() is CloseReason.HEAD
        assert b"200 OK" in answer(bed.connect(GET % b"/"))


@pytest.mark.parametrize("second", [b"GET /again HTTP/1.1\r\n", b"\r\n"])
def test_the_second_head_on_a_connection_is_timed_too(second: bytes) -> None:
    """Empty lines begin no request, and uvicorn takes them for a sign of life."""
    with serving(head_seconds=SOON) as bed:
        client = bed.connect(GET % b"/")
        answer(client)
        client.sendall(second)
        assert received(client) == b""
        assert bed.why() is CloseReason.HEAD


def test_a_body_that_trickles_is_answered_with_408_and_cut() -> None:
    with serving(body_seconds=SOON) as bed:
        slow = bed.connect(POST)
        assert bed.inside.get(timeout=SECONDS) == "/embed"
        slow.sendall(b"0")
        told = received(slow)
        assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"connection: close" in told
        assert b"--body-seconds" in told
        assert bed.cuts.empty(), "it was answered"


def test_a_body_that_nobody_waits_for_any_more_is_cut_as_well() -> None:
    """The app has answered: too large. What still trickles in would keep the connection for ever."""
    with serving(body_seconds=SOON) as bed:
        slow = bed.connect(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\nx" % (BIG + 1))
        assert received(slow).startswith(b"HTTP/1.1 413")
        assert bed.why() is CloseReason.BODY


def test_chunks_that_are_no_body_do_not_go_on_for_ever() -> None:
    """A trailer is part of no body, and the parser keeps it."""
    with serving(max_body_bytes=1_024, max_head_bytes=1_024) as bed:
        client = bed.connect(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ")
        assert bed.inside.get(timeout=SECONDS) == "/"
        with suppress(OSError):
            for _ in range(1_000):
                client.sendall(b"y" * 4_096)
        assert bed.why() is CloseReason.BODY


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"3\r\nabcd\r\n", b"-1\r\n"])
@pytest.mark.parametrize("together", [True, False])
def test_a_chunk_that_is_none_is_answered_with_400_at_once(chunk: bytes, together: bool) -> None:
    """The app waits for the rest of the body: it would wait for ever, and so would a drain."""
    head = b"POST /embed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with serving() as bed:
        client = bed.connect(head + chunk if together else head)
        assert bed.inside.get(timeout=SECONDS) == "/embed"
        if not together:
            client.sendall(chunk)
        told = received(client)
        assert told.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert told.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in told
        assert bed.cuts.empty(), "it was answered"


def test_a_bad_chunk_of_a_request_that_waits_behind_another_ends_both_in_order() -> None:
    chunked = b"POST /second HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    with serving() as bed:
        told = received(bed.connect(GET % b"/first" + chunked))
        assert told.index(b"200 OK") < told.index(b"400 Bad Request")
        assert [bed.inside.get(timeout=SECONDS) for _ in range(2)] == ["/first", "/second"]


def test_a_bad_chunk_after_the_answer_closes_without_a_second_answer() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with serving() as bed:
        client = bed.connect(head)
        client.sendall(b"%x\r\n" % (BIG + 1) + b"x" * (BIG + 1) + b"\r\n")  # too large: 413
        got = client.recv(4096)
        assert got.startswith(b"HTTP/1.1 413")
        client.sendall(b"zz\r\n")
        assert b"HTTP/1.1" not in received(client)


@pytest.mark.parametrize("requests", [1, 3])
def test_a_client_that_closes_its_side_gets_its_answers(requests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HALF_CLOSED_SECONDS", SECONDS)
    with serving() as bed:
        client = bed.connect(GET % b"/" * (requests - 1) + POST + b"0123456789")
        client.shutdown(socket.SHUT_WR)
        told = received(client)
        assert told.count(b"200 OK") == requests
        assert told.endswith(b"ok")


def test_a_client_that_has_left_does_not_keep_its_request_for_long() -> None:
    """It looks like one that has only closed its side."""
    with serving() as bed:
        bed.connect(GET % b"/wait").close()
        assert [bed.inside.get(timeout=SECONDS) for _ in range(2)] == ["/wait", "left"]


def test_a_client_that_closes_its_side_within_a_body_is_gone() -> None:
    with serving() as bed:
        client = bed.connect(POST + b"01234")
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b""


@pytest.mark.parametrize("hosts", [b"", b"host: x\r\nhost: y\r\n"])
def test_http_1_1_needs_exactly_one_host(hosts: bytes) -> None:
    with serving() as bed:
        told = received(bed.connect(b"GET / HTTP/1.1\r\n" + hosts + b"\r\n"))
        assert told.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Host header" in told
        assert bed.inside.empty()


def test_http_1_0_needs_no_host() -> None:
    with serving() as bed:
        assert b"200 OK" in received(bed.connect(b"GET / HTTP/1.0\r\n\r\n"))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_offer_of_http_2_is_ignored_and_the_body_is_read(size: int) -> None:
    """Java's HttpClient sends it with each first request of a connection."""
    offer = b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    post = b"POST /embed HTTP/1.1\r\n" + offer + b"content-length: 10\r\n\r\n0123456789"
    chunked = b"POST /embed HTTP/1.1\r\n" + offer + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    sent = post + chunked + b"GET /x HTTP/1.1\r\n" + offer + b"\r\n" + GET % b"/y"
    with serving() as bed:
        client = bed.connect()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), size):
            client.sendall(sent[start : start + size])
        assert received_of(client, 4) == 4
        assert [bed.inside.get(timeout=SECONDS) for _ in range(4)] == ["/embed", "/embed", "/x", "/y"]
        assert list(iter_bodies(bed)) == [b"0123456789", b"abc", b"", b""]
        assert bed.cuts.empty()


def test_an_offer_of_another_protocol_with_close_is_the_last_request() -> None:
    with serving() as bed:
        told = received(bed.connect(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: h2c\r\n\r\n"))
        assert b"200 OK" in told


def iter_bodies(bed: Bed) -> Iterator[bytes]:
    while not bed.bodies.empty():
        yield bed.bodies.get()


def test_an_idle_connection_is_closed() -> None:
    with serving(idle_seconds=SOON) as bed:
        client = bed.connect(GET % b"/")
        assert received(client).endswith(b"ok")
        assert bed.cuts.empty()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /embed HTTP/1.1\r\nhost: x\r\nlong: " + b"y" * 2_000 + b"\r\n\r\n",
        b"GET /embed HTTP/1.1\r\nhost: x\r\nlong: " + b"y" * 200_000,  # and no end
        b"GET /embed?" + b"y" * 2_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /embed HTTP/1.1\r\n" + b"a: b\r\n" * 20 + b"\r\n",
    ],
    ids=["long", "endless", "path", "many"],
)
def test_a_head_that_is_too_large_is_refused_with_431(head: bytes) -> None:
    with serving(max_head_bytes=1_024, max_head_fields=16) as bed:
        client = bed.connect(head)
        told = received(client)
        assert told.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert b"/embed The request has more than 1024 bytes of headers, or more than 16 headers" in told
        assert bed.inside.empty()
        assert b"200 OK" in answer(bed.connect(GET % b"/"))


def test_a_head_at_its_limits_is_taken_also_behind_others() -> None:
    """The limit is of each head, not of what comes in one packet."""
    with serving(max_head_bytes=1_024, max_head_fields=16) as bed:
        full = b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"y" * 900 + b"\r\n" + b"a: b\r\n" * 14 + b"\r\n"
        client = bed.connect(full * 8 + full[:500])
        assert received_of(client, 8) == 8
        client.sendall(full[500:])
        assert b"200 OK" in answer(client)


def test_what_is_no_http_is_a_400() -> None:
    with serving() as bed:
        assert received(bed.connect(b"\x16\x03\x01 this is TLS\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_beyond_the_limit_of_connections_only_probes_are_answered() -> None:
    with serving(connections=2) as bed:
        held = [bed.connect(GET % b"/"), bed.connect(GET % b"/")]
        for each in held:
            answer(each)
        told = received(bed.connect(POST + b"0123456789"))
        assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"retry-after: 1\r\n" in told
        assert b"connection: close\r\n" in told
        probe = received(bed.connect(GET % b"/ready?x=1"))
        assert b"200 OK" in probe, "and closed: a probe holds no connection"
        held[0].sendall(GET % b"/still")
        answer(held[0])  # those that were there before go on
        held.pop().close()
        until_let_in(bed)


def until_let_in(bed: Bed) -> None:
    """The server learns of a closed connection in its own time."""
    for _ in range(1_000):
        client = bed.connect(GET % b"/")
        if b"200 OK" in client.recv(4096):
            return
        client.close()
    raise AssertionError("a connection that was left is not given to another")


def test_beyond_the_reserve_a_connection_is_closed_at_once() -> None:
    with serving(connections=1) as bed:
        held = [bed.connect() for _ in range(1 + PROBE_CONNECTIONS)]
        last = bed.connect()
        told = received(last)  # without a byte from the client
        assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"retry-after: 1\r\n" in told
        assert all(each.fileno() > 0 for each in held)


def test_who_does_not_read_its_answer_is_cut() -> None:
    with serving(answer_seconds=SOON) as bed:
        greedy = bed.connect(GET % b"/big")
        assert bed.why() is CloseReason.UNREAD
        assert len(received(greedy)) < BIG
        assert b"200 OK" in answer(bed.connect(GET % b"/"))


def test_a_connection_that_is_over_is_not_kept_by_who_does_not_read() -> None:
    with serving(answer_seconds=SOON) as bed:
        greedy = bed.connect(b"GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert bed.why() is CloseReason.UNREAD
        assert len(received(greedy)) < BIG


def test_a_reader_gets_all_of_a_long_answer() -> None:
    with serving(answer_seconds=SECONDS) as bed:
        reader = bed.connect(b"GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert received(reader).count(b"x") >= BIG
        assert bed.cuts.empty()


def test_what_nobody_reads_is_bounded_and_the_one_that_waits_longest_goes_first() -> None:
    with serving(max_unread_bytes=65_536) as bed:
        first = bed.connect(GET % b"/big")
        while first.recv(1) != b"x":  # the first byte of the body: the server has begun to write all of it
            pass
        second = bed.connect(GET % b"/big")
        assert bed.why() is CloseReason.UNREAD
        assert len(received(first)) < BIG
        second.sendall(GET % b"/")
        assert received_of(second, 1) == 2  # the long answer, and the next
        assert bed.cuts.empty()


def test_the_other_port_gets_through_when_the_first_is_full() -> None:
    listener, aside, listening, drain = (
        bind_socket("127.0.0.1", 0),
        bind_socket("127.0.0.1", 0),
        Event(),
        GracefulShutdown(0.0),
    )
    address, other = listener.getsockname(), aside.getsockname()
    with ExitStack() as stack:
        bed, beside = Bed(stack, address), Bed(stack, other)
        limiter = ConnectionLimiter(ConnectionLimits(connections=1), refuse, bed.cuts.put)
        side = MetricsListener(
            beside, aside, ConnectionLimiter(ConnectionLimits(connections=1), refuse, beside.cuts.put)
        )
        thread = Thread(target=GracefulServer(bed, listener, limiter, drain, listening.set, side=side).run)
        thread.start()
        try:
            assert listening.wait(SECONDS)
            held = [bed.connect() for _ in range(1 + PROBE_CONNECTIONS)]
            assert received(bed.connect()).startswith(b"HTTP/1.1 503")
            assert b"200 OK" in answer(beside.connect(GET % b"/metrics"))
            assert beside.inside.get(timeout=SECONDS) == "/metrics"
            assert held
        finally:
            drain.begin(0.0)
            stack.close()
            thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_whole_message_costs_no_timer() -> None:
    """On the way of every request: what the limits cost there is attributes, and no timer."""
    made: list[str] = []

    class Counting(HttpConnection):
        def _wait_for(self, part: CloseReason) -> None:
            made.append(part)
            super()._wait_for(part)

    with serving(Counting) as bed:
        client = bed.connect(GET % b"/")
        answer(client)
        for _ in range(5):
            client.sendall(POST + b"0123456789")
            answer(client)
    assert made == [CloseReason.HEAD], "the one of the new connection"


def test_limits_are_by_default_those_of_the_settings() -> None:
    settings = Settings(bundle=Path("bundle"))
    assert ConnectionLimits() == ConnectionLimits(
        **{name: getattr(settings, name) for name in ConnectionLimits.__slots__}
    )
