"""One connection, and what its client may hold and for how long: beyond that it is refused, or cut.

uvicorn alone takes any number of connections and headers, and waits for ever: for the rest of a head, for the rest of a
body, for a client that does not read its answer. A few slow clients would hold every file descriptor, or all memory.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from embedship.serve.errors import HeadTooLarge, InvalidJson, RequestError, TooManyConnections
from embedship.serve.http.messages import BODY_TIMEOUT, NOSNIFF, Response
from embedship.serve.telemetry.metrics import CloseReason

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Of every connection, and of all together; the settings of the same names say what each is for."""

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
    """What the connections of one listener share. `refuse` gives the answer to a path that the app is not asked for."""

    def __init__(
        self,
        limits: ConnectionLimits,
        refuse: Callable[[RequestError, str], Response],
        cut: Callable[[CloseReason], object],
    ) -> None:
        self.limits = limits
        self.refuse = refuse
        self.cut = cut
        self.lingering = 0  # connections that were refused, and whose clients have not left yet
        self._unread: dict[HttpConnection, None] = {}  # in the order in which they stopped to read

    def writing_paused(self, connection: HttpConnection) -> None:
        """Its client does not read as fast as it is answered. Who has not read for longest makes room for others."""
        self._unread[connection] = None
        while len(self._unread) > 1 and sum(each.unread for each in self._unread) > self.limits.max_unread_bytes:
            next(iter(self._unread)).cut(CloseReason.UNREAD)

    def writing_resumed(self, connection: HttpConnection) -> None:
        self._unread.pop(connection, None)


# Connections beyond the limit, for those who ask whether this server lives: a full one must not be taken for dead.
PROBE_CONNECTIONS = 32
PROBES = frozenset({b"/health", b"/ready", b"/metrics"})

# A client that was refused gets so long to read why: closing while it still sends would reset the connection.
_LINGER_SECONDS = 2.0

# Bytes of chunked framing to bytes of body: clients send chunks of kilobytes, and more than this is no body any more.
_FRAMING = 2


class HttpConnection(HttpToolsProtocol):
    """`gate` is set in a subclass, one a listener. A message that comes in one piece costs no timer."""

    gate: ConnectionLimiter
    _part: CloseReason | None = None  # HEAD or BODY, while that is on its way
    _timed: CloseReason | None = None  # what `_timer` waits for
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None  # until the client must have read
    _extra = False  # came when the limit was reached
    _refused = _lingers = False
    _begun = 0  # messages that began in this chunk
    _chunk = 0  # its bytes
    _bytes = 0  # of the message on its way, in the chunks before
    _error: RequestError | None = None

    @property
    def unread(self) -> int:
        """Bytes of answers that wait here for the client."""
        return self.transport.get_write_buffer_size()

    @property
    def _over(self) -> int:
        """Connections beyond the limit."""
        return len(self.connections) - self.gate.limits.connections

    @property
    def _too_many(self) -> bool:
        """Whether this one is: not once others have left."""
        return self._extra and self._over > 0

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.url = b""
        if self._over + self.gate.lingering > PROBE_CONNECTIONS:
            self._refuse_immediately()
        else:
            self._extra = self._over > 0
            self._wait_for(CloseReason.HEAD)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        idle, self._begun, self._chunk = self._part is None, 0, len(data)
        super().data_received(data)
        if self._part is None and not self._begun and self._timed is None:
            self._part = CloseReason.HEAD  # empty lines, that uvicorn takes for a sign of life
        if self._part is not None and not self._refused:
            # Whose all of this chunk is: of a message that began with it, or of one that began before.
            self._unfinished(self._chunk if self._begun == int(idle) else 0)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop()
        self._part, self._bytes, self._begun = CloseReason.HEAD, 0, self._begun + 1

    def on_headers_complete(self) -> None:
        self._stop()
        self._part = CloseReason.BODY
        self._error = self._rejection()
        if self._error:
            raise self._error  # the parser stops, and uvicorn asks for a 400
        super().on_headers_complete()
        if self._too_many:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._stop()
        self._part = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._error or InvalidJson("This is not HTTP/1.1: the request cannot be read."))

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
        self.gate.writing_paused(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.gate.writing_resumed(self)
        if not self.transport.is_closing():
            self._stop_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._stop_read_timer()
        self.gate.writing_resumed(self)
        self.gate.lingering -= self._lingers
        super().connection_lost(exc)

    def cut(self, why: CloseReason) -> None:
        """At once, with what was not read."""
        self.gate.writing_resumed(self)
        self.gate.cut(why)
        self.transport.abort()

    def _rejection(self) -> RequestError | None:
        limits = self.gate.limits
        if len(self.headers) > limits.max_head_fields or self._head_bytes() > limits.max_head_bytes:
            return _head_too_large(limits)
        if self._too_many and self.url.partition(b"?")[0] not in PROBES:
            return _crowded(limits)
        return None

    def _head_bytes(self) -> int:
        """Exact only where it may matter."""
        if self._bytes + self._chunk <= self.gate.limits.max_head_bytes:
            return 0
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _unfinished(self, size: int) -> None:
        limits = self.gate.limits
        self._bytes += size
        if self._part is CloseReason.HEAD and self._bytes > limits.max_head_bytes:
            self._refuse(_head_too_large(limits))
        elif self._bytes > limits.max_head_bytes + _FRAMING * limits.max_body_bytes:
            self.cut(CloseReason.BODY)
        elif self._part is not self._timed and self._part is not None:
            self._wait_for(self._part)

    def _wait_for(self, part: CloseReason) -> None:
        self._stop()
        limits = self.gate.limits
        seconds = limits.head_seconds if part is CloseReason.HEAD else limits.body_seconds
        self._timed, self._timer = part, self.loop.call_later(seconds, self._on_timeout, part)

    def _on_timeout(self, part: CloseReason) -> None:
        if not self._answering:
            self.cut(part)
            return
        # Pipelined, it may wait for the answer before it, and is not even read until then.
        if part is CloseReason.BODY and not self.pipeline:
            self.scope[BODY_TIMEOUT] = True  # type: ignore[literal-required]
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
        self._wait_for(part)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = self._timed = None

    def _start_read_timer(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self.gate.limits.answer_seconds, self.cut, CloseReason.UNREAD)

    def _stop_read_timer(self) -> None:
        if self._reading:
            self._reading.cancel()
            self._reading = None

    def _refuse(self, error: RequestError) -> None:
        """Answer without the app, and let the client read it: no more of what it sends is looked at."""
        self._refused = True
        self._stop()
        if self._answering:  # its answer comes first, and is the last
            self.cycle.keep_alive = False
            return
        self.connections.discard(self)
        self._lingers, self.gate.lingering = True, self.gate.lingering + 1
        self._write(error)
        self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _refuse_immediately(self) -> None:
        """Without waiting for anything: a flood must not hold file descriptors."""
        self._refused = True
        self.connections.discard(self)
        self._write(_crowded(self.gate.limits))
        self.transport.close()

    def _write(self, error: RequestError) -> None:
        path = self.url.partition(b"?")[0].decode("latin-1")
        self.transport.write(_written(self.gate.refuse(error, path)))


def _head_too_large(limits: ConnectionLimits) -> HeadTooLarge:
    return HeadTooLarge(
        f"The head of the request has more than {limits.max_head_bytes} bytes or {limits.max_head_fields} fields: send "
        "fewer and shorter headers."
    )


def _crowded(limits: ConnectionLimits) -> TooManyConnections:
    return TooManyConnections(
        f"This server holds {limits.connections} connections, as many as it takes: use them again, or come back in "
        "1 s.",
        headers={"Retry-After": "1"},
    )


def _written(reply: Response) -> bytes:
    headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), NOSNIFF]
    headers += reply.headers
    lines = [f"HTTP/1.1 {reply.status} {http.HTTPStatus(reply.status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", reply.body])
