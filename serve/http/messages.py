"""What a route is, and the small part of HTTP the server needs: body in, sentence or answer out.

Plain ASGI: a few fixed paths need no framework's router and request objects on the hot path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import msgspec

from embedship.serve.errors import (
    ApiDialect,
    ClientDisconnected,
    Invalid,
    InvalidJson,
    RequestError,
    SlowBody,
    TooLarge,
)
from embedship.serve.telemetry.request_context import Priority

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"

# Documents are text that anybody may have written: no browser shall take an answer for a page.
NOSNIFF = (b"x-content-type-options", b"nosniff")

# In the scope of a request whose body has not come in time; whoever reads it is told so by an empty message.
BODY_TIMEOUT = "embedship.late"

# Most answers leave before this, and never pay for the task that watches their client.
WATCH_AFTER_SECONDS = 0.05

_IDS_CURE = (
    " This server takes texts, not token ids: ids of another tokenizer would be silently wrong. With langchain-openai "
    "set check_embedding_ctx_length=False. If they are this model's own, start it with --accept-token-ids."
)


class Response(NamedTuple):
    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = ()


class RequestInfo(NamedTuple):
    """What a handler may want to know of a request beside its body."""

    headers: Sequence[tuple[bytes, bytes]]  # names in lower case, as ASGI has them
    rest: str = ""  # what the {parameter} at the end of the route's path stands for

    def header(self, name: bytes) -> str | None:
        for each, value in self.headers:
            if each == name:
                return value.decode("latin-1")
        return None

    @property
    def lane(self) -> Priority | None:
        """The lane the client asks for; without the header, the size of the request says it."""
        asked = self.header(b"x-embedship-lane")
        if asked is None:
            return None
        try:
            return Priority(asked.strip().lower())
        except ValueError:
            raise Invalid(f"X-Embedship-Lane: {asked!r} is no lane; there are: {', '.join(Priority)}.") from None


@dataclass(frozen=True, slots=True)
class Route:
    """One path and method: what it takes and gives. The OpenAPI document says the same, for it is made from this."""

    method: str
    path: str
    summary: str
    handle: Callable[[Any, RequestInfo], Awaitable[Response]]
    takes: Any = None  # a msgspec.Struct, or nothing
    gives: Any = None  # None: text, of the kind `media`
    family: ApiDialect = ApiDialect.FLAT
    errors: tuple[type[RequestError], ...] = ()
    unready: bool = False  # may answer 503 in the shape of `gives`
    body_bytes: int | None = None  # most bytes it takes, where that is less than the server does
    media: str = "text/plain"
    apart: str | None = None  # what those of its requests are counted as that call count_apart()
    part_of: str | None = None  # the path it is counted under; what is part of another is in no document
    open: bool = False  # to those without an API key: probes, scrapes, and what says nothing of anybody
    admin: bool = False  # asks for an admin key instead of an API key
    writes: bool = False  # asks for a write key, or an admin key
    slow: bool = False  # takes no body, and may take long all the same
    binary: bool = False  # gives application/octet-stream to who accepts it, described by headers

    @property
    def tail(self) -> str | None:
        """The path before its {parameter}, which is always its end."""
        head, brace, _ = self.path.partition("{")
        return head if brace else None

    @property
    def has_deadline(self) -> bool:
        """Whether it has a deadline and keeps a draining server alive. The others are probes, and answer at once."""
        return self.takes is not None or self.slow


Body = TypeVar("Body")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to be, SlowBody or ClientGone if it never ends."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise _too_large(limit)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("The connection was closed in the middle of the body.")
        if BODY_TIMEOUT in scope:
            raise SlowBody("The body did not come in time (--body-seconds): send it faster, or fewer texts a request.")
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > limit:
            raise _too_large(limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes: send fewer texts a request.")


def decode(decoder: msgspec.json.Decoder[Body], raw: bytes) -> Body:
    """Raises Malformed or Invalid, with the path of the field at fault."""
    if not raw.strip():
        raise InvalidJson("The body is empty: send a JSON object.")
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not valid JSON in UTF-8: {error}.{_surrogate(raw)}") from None
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None


def _surrogate(raw: bytes) -> str:
    """msgspec says of a lone surrogate that the data was truncated, which sends the client looking elsewhere."""
    hint = " It holds \\ud escapes: half a surrogate pair is no text."
    return hint if b"\\ud" in raw.lower() else ""


def _invalid(message: str, struct: Any) -> Invalid:
    """msgspec says "Expected `str`, got `int` - at `$.input[0]`"; clients want the field first, and the cure."""
    problem, _, path = message.partition(" - at `$.")
    where = path.rstrip("`")
    field = where.split("[")[0] or None
    cure = ""
    if field in ("input", "inputs") and ("got `int`" in problem or "got `array`" in problem):
        cure = _IDS_CURE
    if "unknown field" in problem:
        cure = f" This route takes: {', '.join(struct.__struct_fields__)}."
    return Invalid(f"{where}: {problem}.{cure}" if where else f"{problem}.{cure}", field)


async def send_response(send: Send, reply: Response, always: Headers) -> None:
    size = b"%d" % len(reply.body)
    headers = [(b"content-type", reply.content_type), (b"content-length", size), NOSNIFF, *always, *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


class DisconnectWatcher:
    """While inside, the request ends with ClientGone as soon as its client closes the connection."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._request = asyncio.current_task()
        self._timer = loop.call_later(WATCH_AFTER_SECONDS, self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()
        if self._gone and self._request and isinstance(error, asyncio.CancelledError):
            self._request.uncancel()
            raise ClientDisconnected("The client closed the connection before the answer.") from None

    def _watch(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._request:
            self._request.cancel()
