"""HTTP connection with limits: a client that exceeds a limit is rejected, or its connection is closed.

uvicorn alone accepts any number of connections and headers, and waits without a timeout for the rest of the headers,
for the rest of the body, and for a client that does not read its response. A few slow clients could use up all file
descriptors or all memory.

uvicorn also closes a connection as soon as its client has sent everything, and skips the body of a request that offers
another protocol. Here the client gets its response in both cases.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from embedship.serve.errors import HeadTooLarge, InvalidJson, RequestError, SlowBody, TooManyConnections
from embedship.serve.http.messages import BODY_ERROR, NOSNIFF, Response
from embedship.serve.telemetry.metrics import CloseReason


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of each connection, and of all connections together. The settings of the same names describe them."""

    connections: int = 1_024
    head_seconds: float = 15.0
    max_head_bytes: int = 32_768
    max_head_fields: int = 100
    body_seconds: float = 30.0
    max_body_bytes: int = 16 * 1024 * 1024
    idle_seconds: float = 75.0
    answer_seconds: float = 60.0
    max_unread_bytes: int = 256 * 1024 * 1024


class ConnectionLimiter:
    """State shared by the connections of one listener.

    `refuse` returns the response for an error and a path when the app is not called. `cut` counts a closed connection.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        refuse: Callable[[RequestError, str], Response],
        cut: Callable[[CloseReason], object],
    ) -> None:
        self.limits = limits
        self.refuse = refuse
        self.cut = cut
        self.lingering = 0  # rejected connections whose clients have not closed them yet
        self._unread: dict[HttpConnection, None] = {}  # stalled connections, the longest stalled first

    def writing_paused(self, connection: HttpConnection) -> None:
        """Register a client that reads slower than it is answered; close the longest stalled ones above the limit."""
        self._unread[connection] = None
        while len(self._unread) > 1 and sum(each.unread for each in self._unread) > self.limits.max_unread_bytes:
            next(iter(self._unread)).cut(CloseReason.UNREAD)

    def writing_resumed(self, connection: HttpConnection) -> None:
        """Remove a connection from the stalled ones."""
        self._unread.pop(connection, None)


# Extra connections above the limit, for health checks: a server at its limit must still answer them.
PROBE_CONNECTIONS = 32
PROBES = frozenset({b"/health", b"/ready", b"/metrics"})

# Time for a rejected client to read the response: closing while it still sends would reset the connection.
_LINGER_SECONDS = 2.0

# Time in which a client that has sent everything and closed its side gets its response. A client that closed the whole
# connection looks the same until then, and its request must not occupy the queue for longer.
_HALF_CLOSED_SECONDS = 1.0

# Headers with which a client offers to continue in another protocol. They are ignored.
_UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings", b"connection"})

# Accepted ratio of chunked framing to body bytes: clients send chunks of kilobytes, and
# more framing than this is not a normal body.
_FRAMING = 2


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits. A request that arrives in one piece needs no timer.

    `limiter` is set in a subclass per listener.
    """

    limiter: ConnectionLimiter
    _part: CloseReason | None = None  # HEAD or BODY while that part is being received
    _timer_part: CloseReason | None = None  # the part that `_timer` limits
    _timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None  # closes the connection if the client does not read
    _end_timer: asyncio.TimerHandle | None = None  # closes the connection of a client that has closed its side
    _above_limit = False  # accepted when the limit was already reached
    _refused = _is_lingering = False
    _messages_begun = 0  # messages that began in the current chunk
    _chunk = 0  # bytes of the current chunk
    _bytes = 0  # bytes of the current message in earlier chunks
    _error: RequestError | None = None

    @property
    def unread(self) -> int:
        """Response bytes that the client has not read yet."""
        return self.transport.get_write_buffer_size()

    @property
    def _excess(self) -> int:
        """Number of connections above the limit (negative below it)."""
        return len(self.connections) - self.limiter.limits.connections

    @property
    def _too_many(self) -> bool:
        """Whether this connection is above the limit. It no longer counts as such when enough others have closed."""
        return self._above_limit and self._excess > 0

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.url = b""
        if self._excess + self.limiter.lingering > PROBE_CONNECTIONS:
            self._refuse_immediately()
        else:
            self._above_limit = self._excess > 0
            self._wait_for(CloseReason.HEAD)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        idle, self._messages_begun, self._chunk = self._part is None, 0, len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._part is None and not self._messages_begun and self._timer_part is None:
            self._part = CloseReason.HEAD  # empty lines, which uvicorn accepts as activity
        if self._part is not None and not self._refused:
            # Attribute the chunk's bytes to the message that started in it, or to the earlier one.
            self._unfinished(self._chunk if self._messages_begun == int(idle) else 0)

    def _parse(self, data: bytes) -> None:
        """Parse a chunk. A request that offers another protocol is parsed again without the offer, with its body."""
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as offer:
                    head = _head_without_upgrade(self.parser.get_method(), self.url, self.headers)
                    self.parser = httptools.HttpRequestParser(self)
                    self._messages_begun -= 1
                    self.parser.feed_data(head)
                    rest = rest[offer.args[0] :]
        except httptools.HttpParserError:
            self.send_400_response("")

    @property
    def _offers_upgrade(self) -> bool:
        """Whether the parser skips the body of this message, because the client offers another protocol."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that has sent whole requests and now only waits for the responses."""
        if not self._answering or (self._part is not None and not self._refused):
            return False
        self.cycle.keep_alive = False
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(_HALF_CLOSED_SECONDS, self._end_half_closed)
        return True

    def _end_half_closed(self) -> None:
        if self._answering:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop()
        self._part, self._bytes, self._messages_begun = CloseReason.HEAD, 0, self._messages_begun + 1

    def on_headers_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._stop()
        self._part = CloseReason.BODY
        self._error = self._rejection()
        if self._error:
            raise self._error  # stops the parser; uvicorn then calls send_400_response
        super().on_headers_complete()
        if self._too_many:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._stop()
        self._part = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._error or InvalidJson("The request cannot be parsed as HTTP/1.1."))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_read_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._start_read_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_read_timer()
        self.limiter.writing_paused(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.limiter.writing_resumed(self)
        if not self.transport.is_closing():
            self._stop_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._stop_read_timer()
        if self._end_timer:
            self._end_timer.cancel()
        self.limiter.writing_resumed(self)
        self.limiter.lingering -= self._is_lingering
        super().connection_lost(exc)

    def cut(self, why: CloseReason) -> None:
        """Close at once, and discard unread response bytes."""
        self.limiter.writing_resumed(self)
        self.limiter.cut(why)
        self.transport.abort()

    def _rejection(self) -> RequestError | None:
        limits = self.limiter.limits
        if len(self.headers) > limits.max_head_fields or self._head_bytes() > limits.max_head_bytes:
            return _head_too_large(limits)
        if self._too_many and self.url.partition(b"?")[0] not in PROBES:
            return _too_many_connections(limits)
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            return InvalidJson(f"The request has {hosts or 'no'} Host headers: HTTP/1.1 requires exactly one.")
        return None

    def _head_bytes(self) -> int:
        """Return the size of the headers, or 0 if they cannot exceed the limit: the exact size is not needed then."""
        if self._bytes + self._chunk <= self.limiter.limits.max_head_bytes:
            return 0
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _unfinished(self, size: int) -> None:
        """Add `size` bytes to the incomplete message; reject or close it above the limits, else start its timer."""
        limits = self.limiter.limits
        self._bytes += size
        if self._part is CloseReason.HEAD and self._bytes > limits.max_head_bytes:
            self._refuse(_head_too_large(limits))
        elif self._bytes > limits.max_head_bytes + _FRAMING * limits.max_body_bytes:
            self.cut(CloseReason.BODY)
        elif self._part is not self._timer_part and self._part is not None:
            self._wait_for(self._part)

    def _wait_for(self, part: CloseReason) -> None:
        self._stop()
        limits = self.limiter.limits
        seconds = limits.head_seconds if part is CloseReason.HEAD else limits.body_seconds
        self._timer_part, self._timer = part, self.loop.call_later(seconds, self._on_timeout, part)

    def _on_timeout(self, part: CloseReason) -> None:
        if not self._answering:
            self.cut(part)
            return
        # A pipelined request may wait for the response before it, and is not read until then.
        if part is CloseReason.BODY and not self.pipeline:
            self._fail_body(
                SlowBody(
                    "The body did not arrive in time (--body-seconds): send it faster, or send fewer texts per request."
                )
            )
        self._wait_for(part)

    def _fail_body(self, error: RequestError) -> None:
        """End the request with this error instead of the rest of its body; its response is the last one."""
        self.cycle.scope[BODY_ERROR] = error  # type: ignore[literal-required]
        self.cycle.keep_alive = False
        self.cycle.message_event.set()

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = self._timer_part = None

    def _start_read_timer(self) -> None:
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.limiter.limits.answer_seconds, self.cut, CloseReason.UNREAD)

    def _stop_read_timer(self) -> None:
        if self._read_timer:
            self._read_timer.cancel()
            self._read_timer = None

    def _refuse(self, error: RequestError) -> None:
        """Send an error without calling the app, and let the client read it. Further bytes from it are ignored."""
        self._refused = True
        self._stop()
        if self._answering:  # the response in progress is sent first and is the last one
            self.cycle.keep_alive = False
            if self.cycle.more_body:
                self._fail_body(error)
            return
        if self._part is CloseReason.BODY and self.cycle and self.cycle.scope is self.scope:
            self.transport.close()  # this request was answered before its body was complete
            return
        self.connections.discard(self)
        self._is_lingering, self.limiter.lingering = True, self.limiter.lingering + 1
        self._write(error)
        self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _refuse_immediately(self) -> None:
        """Send 503 and close without waiting: a flood of connections must not hold file descriptors."""
        self._refused = True
        self.connections.discard(self)
        self._write(_too_many_connections(self.limiter.limits))
        self.transport.close()

    def _write(self, error: RequestError) -> None:
        path = self.url.partition(b"?")[0].decode("latin-1")
        self.transport.write(_encode_response(self.limiter.refuse(error, path)))


def _head_too_large(limits: ConnectionLimits) -> HeadTooLarge:
    return HeadTooLarge(
        f"The request has more than {limits.max_head_bytes} bytes of headers, or more than {limits.max_head_fields} "
        "headers: send fewer and shorter headers."
    )


def _too_many_connections(limits: ConnectionLimits) -> TooManyConnections:
    return TooManyConnections(
        f"This server has reached its limit of {limits.connections} connections: reuse open connections, or try again "
        "in 1 s.",
        headers={"Retry-After": "1"},
    )


def _head_without_upgrade(method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request in HTTP/1.1 without the offer of another protocol."""
    kept = [(name, value) for name, value in headers if name not in _UPGRADE_HEADERS]
    if any(name == b"connection" and b"close" in value.lower() for name, value in headers):
        kept.append((b"connection", b"close"))
    lines = [b"%s %s HTTP/1.1" % (method, url), *(name + b": " + value for name, value in kept)]
    return b"\r\n".join([*lines, b"", b""])


def _encode_response(reply: Response) -> bytes:
    headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), NOSNIFF]
    headers += reply.headers
    lines = [f"HTTP/1.1 {reply.status} {http.HTTPStatus(reply.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", reply.body])
