"""HTTP messages: the definition of a route, and the code that reads request bodies and sends responses.

Plain ASGI: for a few fixed paths, the router and request objects of a framework would only slow down each request.
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
    TooLarge,
)
from embedship.serve.telemetry.request_context import Priority

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"

# Documents may contain any text: browsers must not interpret a response as a web page.
NOSNIFF = (b"x-content-type-options", b"nosniff")

# Key in the scope of a request whose body cannot be read to its end; the value is the RequestError. An empty message
# wakes the code that waits for the body.
BODY_ERROR = "embedship.body_error"

# Most requests are answered within this time, so they do not need a task that watches for a disconnect.
WATCH_AFTER_SECONDS = 0.05

_IDS_CURE = (
    " This server expects texts, not token ids: ids of another tokenizer would silently give wrong vectors. With "
    "langchain-openai, set check_embedding_ctx_length=False. If the ids come from this model's own tokenizer, start "
    "the server with --accept-token-ids."
)


class Response(NamedTuple):
    """A complete HTTP response."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = ()


class RequestInfo(NamedTuple):
    """Parts of a request that a handler may need in addition to the decoded body."""

    headers: Sequence[tuple[bytes, bytes]]  # names in lower case, as in ASGI
    path_parameter: str = ""  # the value of the {parameter} at the end of the route's path

    def header(self, name: bytes) -> str | None:
        """Return the value of the first header of this name (in lower case), or None."""
        for each, value in self.headers:
            if each == name:
                return value.decode("latin-1")
        return None

    @property
    def lane(self) -> Priority | None:
        """Priority that the client requests, or None: the size of the request then decides. Raises Invalid."""
        value = self.header(b"x-embedship-lane")
        if value is None:
            return None
        try:
            return Priority(value.strip().lower())
        except ValueError:
            raise Invalid(f"X-Embedship-Lane: {value!r} is not a lane; use one of: {', '.join(Priority)}.") from None


@dataclass(frozen=True, slots=True)
class Route:
    """One path and method, with its request and response types. The OpenAPI document is generated from it."""

    method: str
    path: str
    summary: str
    handle: Callable[[Any, RequestInfo], Awaitable[Response]]
    request_type: Any = None  # a msgspec.Struct; None: no body
    response_type: Any = None  # None: text of the type `media`
    dialect: ApiDialect = ApiDialect.FLAT
    errors: tuple[type[RequestError], ...] = ()
    unready: bool = False  # may return 503 with a body of `response_type`
    body_bytes: int | None = None  # maximum body size, if smaller than the server's
    media: str = "text/plain"
    separate_label: str | None = None  # metric label of requests for which the handler calls count_separately()
    part_of: str | None = None  # path whose metric label it uses; such a route is not in the OpenAPI document
    public: bool = False  # requires no API key: health checks, metrics, and responses without user data
    admin: bool = False  # requires an admin key instead of an API key
    writes: bool = False  # requires a write key or an admin key
    slow: bool = False  # has no body, but may take long
    binary: bool = False  # can return application/octet-stream, described by headers

    @property
    def prefix(self) -> str | None:
        """The path before its {parameter}, which is always the last part; None without a parameter."""
        head, brace, _ = self.path.partition("{")
        return head if brace else None

    @property
    def has_deadline(self) -> bool:
        """Whether requests have a timeout and delay the shutdown. Other routes are checks that answer at once."""
        return self.request_type is not None or self.slow


Body = TypeVar("Body")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole body. Raises TooLarge above `limit` bytes, SlowBody, InvalidJson, ClientDisconnected."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise _too_large(limit)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("The client closed the connection before it had sent the whole body.")
        if BODY_ERROR in scope:
            raise scope[BODY_ERROR]
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > limit:
            raise _too_large(limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes: send fewer texts per request.")


def decode(decoder: msgspec.json.Decoder[Body], raw: bytes) -> Body:
    """Return the decoded body. Raises InvalidJson, or Invalid with the name of the invalid field."""
    if not raw.strip():
        raise InvalidJson("The body is empty: send a JSON object.")
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not valid JSON in UTF-8: {error}.{_surrogate_hint(raw)}") from None
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None


def _surrogate_hint(raw: bytes) -> str:
    """Return a hint about lone surrogates: msgspec reports them as truncated data, which is misleading."""
    hint = " It contains \\ud escapes: half of a surrogate pair is not valid text."
    return hint if b"\\ud" in raw.lower() else ""


def _invalid(message: str, struct: Any) -> Invalid:
    """Return an error with the field first and a hint. msgspec says "Expected `str`, got `int` - at `$.input[0]`"."""
    problem, _, path = message.partition(" - at `$.")
    where = path.rstrip("`")
    field = where.split("[")[0] or None
    cure = ""
    if field in ("input", "inputs") and ("got `int`" in problem or "got `array`" in problem):
        cure = _IDS_CURE
    if "unknown field" in problem and not where:
        cure = f" The fields of this route are: {', '.join(struct.__struct_fields__)}."
    return Invalid(f"{where}: {problem}.{cure}" if where else f"{problem}.{cure}", field)


async def send_response(send: Send, response: Response, headers: Headers) -> None:
    """Send a response, with `headers` in addition to its own."""
    size = b"%d" % len(response.body)
    own = [(b"content-type", response.content_type), (b"content-length", size), NOSNIFF]
    await send(
        {"type": "http.response.start", "status": response.status, "headers": [*own, *headers, *response.headers]}
    )
    await send({"type": "http.response.body", "body": response.body})


class DisconnectWatcher:
    """Context manager that ends the request with ClientDisconnected as soon as its client closes the connection."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._disconnected = False
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
        if self._disconnected and self._request and isinstance(error, asyncio.CancelledError):
            self._request.uncancel()
            raise ClientDisconnected("The client closed the connection before the response.") from None

    def _watch(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._disconnected = True
        if self._request:
            self._request.cancel()
