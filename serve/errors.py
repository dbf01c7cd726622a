"""Errors that a request can end with, and their HTTP status in each API dialect.

RequestError                       (openai, flat)
├── InvalidJson             400 400  the body is not valid JSON
├── Invalid                 400 422  valid JSON, but not what the route accepts
├── Unauthorised            401 401  no API key, or an unknown one
├── Forbidden               403 403  the key does not permit this, or a web page of another site sent the request
├── UnknownPath             404 404  no route has this path
├── WrongMethod             405 405  the path exists, but not with this method
├── UnknownRequestId        404 404  /feedback on a search that is not kept, or was judged before
├── SlowBody                408 408  the body arrived too slowly
├── NoIndex                 409 409  /search without an index
├── NoReranker              409 409  /rerank, or re-ranking in /search, without a re-ranker
├── ReadOnly                403 403  a change to an index that is not writable
├── DocumentNotFound        404 404  the index contains no document with this id
├── ReloadInProgress        409 409  a reload while another one runs, or while the server stops
├── ReloadFailed            409 409  the new bundle or index cannot be used; the old one stays in use
├── TooLarge                413 413  too many bytes, texts or characters
├── TooLong                 413 413  more tokens than the model accepts, with truncate=false
├── Overloaded              429 429  the queue is full; with Retry-After
├── HeadTooLarge            431 431  too many headers, or too long ones
├── ClientDisconnected      499 499  the client closed the connection
├── TooManyConnections      503 503  with Retry-After
├── ClientDeadlineExceeded  504 504  the timeout that the client set
├── ServerDeadlineExceeded  504 504  the timeout of the server
├── EngineFailed            500 424  the device or its runtime failed on this batch
├── DiskFull                507 507  no space left on the disk for a change; with Retry-After
├── WriteFailed             503 503  the disk rejected a change; with Retry-After
├── IndexUnavailable        503 503  the server that stores the index does not respond; with Retry-After
└── Internal                500 500  a bug in this server

There are two columns because clients of OpenAI and of text-embeddings-inference expect different status codes for the
same error. Cohere's and Infinity's clients expect those of OpenAI, except that Infinity uses 422 for an invalid body,
as FastAPI does. ERROR_MAPPINGS is the only place where status codes are defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, Self

import msgspec


class ApiDialect(StrEnum):
    """Format of an error body. Each contains the request id, in formats whose clients accept additional fields."""

    OPENAI = "openai"  # {"error": {"message", "type", "param", "code", "request_id"}}
    FLAT = "flat"  # {"error", "error_type", "request_id"}, as in text-embeddings-inference
    INFINITY = "infinity"  # OpenAI's, and also {"detail": [{"loc", "msg", "type"}]}
    COHERE = "cohere"  # {"message", "id"}


class RequestError(Exception):
    """Base class. `message` tells the client what to change; `param` is the invalid field, if there is one."""

    def __init__(self, message: str, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}


class InvalidJson(RequestError):
    """The body is not valid JSON."""


class Invalid(RequestError):
    """A field is missing, unknown, of a wrong type or outside its range."""


class Unauthorised(RequestError):
    """The request has no API key, or not one of this server."""


class Forbidden(RequestError):
    """The key does not permit this request; or no key is set up for it; or a web page of another site sent it."""


class UnknownPath(RequestError):
    """No route has this path."""


class WrongMethod(RequestError):
    """The path does not accept this method."""


class UnknownRequestId(RequestError):
    """No search with this request id is kept, or it was judged before."""


class SlowBody(RequestError):
    """The body did not arrive in time."""


class NoIndex(RequestError):
    """The server was started without an index."""


class NoReranker(RequestError):
    """The server was started without --reranker."""


class ReadOnly(RequestError):
    """The server was started without --writable."""


class DocumentNotFound(RequestError):
    """The index contains no document with this id."""


class ReloadInProgress(RequestError):
    """A reload is running already, or the server is stopping."""


class ReloadFailed(RequestError):
    """The new bundle or index cannot be used; the server continues with the old one."""


class TooLarge(RequestError):
    """Too many bytes, texts or characters."""


class TooLong(RequestError):
    """A text has more tokens than the model accepts, and the request does not allow truncation."""


class Overloaded(RequestError):
    """The queue is full: try again after Retry-After seconds."""


class HeadTooLarge(RequestError):
    """The request has too many headers, or too many bytes of headers."""


class ClientDisconnected(RequestError):
    """The client closed the connection before the response."""


class TooManyConnections(RequestError):
    """The server has reached its connection limit: try again after Retry-After seconds."""


class ClientDeadlineExceeded(RequestError):
    """The timeout that the client set passed before the response."""


class ServerDeadlineExceeded(RequestError):
    """The timeout of the server passed before the response."""


class EngineFailed(RequestError):
    """The device or its runtime failed on this batch."""


class DiskFull(RequestError):
    """Nothing of the change was written: no space is left on the disk."""


class WriteFailed(RequestError):
    """Nothing of the change was written: the disk rejected it."""


class IndexUnavailable(RequestError):
    """The server that stores the index does not respond correctly: try again after Retry-After seconds."""

    @classmethod
    def from_error(cls, error: Exception) -> Self:
        """Return an error with the message of `error` as a sentence."""
        return cls(f"{str(error)[0].upper()}{str(error)[1:]}.", headers={"Retry-After": "1"})


class Internal(RequestError):
    """A bug in the server."""


class ErrorMapping(NamedTuple):
    """Status, metric label and error types of one class of error."""

    openai: int
    flat: int
    reason: str  # label of embedship_rejections_total (below 500, and _CAUSED_BY_CLIENTS) or embedship_failures_total
    type: str  # OpenAI's "type"
    error_type: str  # text-embeddings-inference's "error_type"

    def status(self, dialect: ApiDialect) -> int:
        """Return the HTTP status in a dialect."""
        if dialect is ApiDialect.FLAT:
            return self.flat
        return 422 if dialect is ApiDialect.INFINITY and self.openai == 400 else self.openai


_INVALID = "invalid_request_error"

ERROR_MAPPINGS: Mapping[type[RequestError], ErrorMapping] = MappingProxyType(
    {
        InvalidJson: ErrorMapping(400, 400, "malformed", _INVALID, "Validation"),
        Invalid: ErrorMapping(400, 422, "invalid", _INVALID, "Validation"),
        Unauthorised: ErrorMapping(401, 401, "unauthorised", "authentication_error", "Unauthorized"),
        Forbidden: ErrorMapping(403, 403, "forbidden", "permission_error", "Unauthorized"),
        UnknownPath: ErrorMapping(404, 404, "unknown_path", _INVALID, "Validation"),
        WrongMethod: ErrorMapping(405, 405, "wrong_method", _INVALID, "Validation"),
        UnknownRequestId: ErrorMapping(404, 404, "unknown_answer", _INVALID, "Validation"),
        SlowBody: ErrorMapping(408, 408, "slow_body", _INVALID, "Validation"),
        NoIndex: ErrorMapping(409, 409, "no_index", _INVALID, "Validation"),
        NoReranker: ErrorMapping(409, 409, "no_reranker", _INVALID, "Validation"),
        ReadOnly: ErrorMapping(403, 403, "read_only", "permission_error", "Unauthorized"),
        DocumentNotFound: ErrorMapping(404, 404, "no_document", _INVALID, "Validation"),
        ReloadInProgress: ErrorMapping(409, 409, "reloading", _INVALID, "Validation"),
        ReloadFailed: ErrorMapping(409, 409, "not_reloaded", _INVALID, "Validation"),
        TooLarge: ErrorMapping(413, 413, "too_large", _INVALID, "Validation"),
        TooLong: ErrorMapping(413, 413, "too_long", _INVALID, "Validation"),
        Overloaded: ErrorMapping(429, 429, "overloaded", "rate_limit_error", "Overloaded"),
        HeadTooLarge: ErrorMapping(431, 431, "head_too_large", _INVALID, "Validation"),
        ClientDisconnected: ErrorMapping(499, 499, "client_gone", _INVALID, "Validation"),
        TooManyConnections: ErrorMapping(503, 503, "crowded", "server_error", "Overloaded"),
        ClientDeadlineExceeded: ErrorMapping(504, 504, "expired", "server_error", "Overloaded"),
        ServerDeadlineExceeded: ErrorMapping(504, 504, "timed_out", "server_error", "Overloaded"),
        EngineFailed: ErrorMapping(500, 424, "engine", "server_error", "Backend"),
        DiskFull: ErrorMapping(507, 507, "disk_full", "server_error", "Backend"),
        WriteFailed: ErrorMapping(503, 503, "not_stored", "server_error", "Backend"),
        IndexUnavailable: ErrorMapping(503, 503, "index_away", "server_error", "Backend"),
        Internal: ErrorMapping(500, 500, "internal", "server_error", "Backend"),
    }
)
# Clients choose their own timeouts and the number of their connections: these are not failures of this server, so they
# must not trigger an alert.
_CAUSED_BY_CLIENTS = (TooManyConnections, ClientDeadlineExceeded)
REJECTIONS = tuple(
    mapping.reason for kind, mapping in ERROR_MAPPINGS.items() if mapping.openai < 500 or kind in _CAUSED_BY_CLIENTS
)
FAILURES = tuple(mapping.reason for mapping in ERROR_MAPPINGS.values() if mapping.reason not in REJECTIONS)


class OpenAIErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class OpenAIError(msgspec.Struct, frozen=True):
    """Error body of OpenAI's routes."""

    error: OpenAIErrorBody


class Detail(msgspec.Struct, frozen=True):
    """One error in FastAPI's format."""

    loc: list[str]
    msg: str
    type: str


class InfinityError(msgspec.Struct, frozen=True):
    """Error body of Infinity's routes: infinity_client reads `detail`, OpenAI's clients read `error`."""

    error: OpenAIErrorBody
    detail: list[Detail]


class CohereError(msgspec.Struct, frozen=True):
    """Error body of Cohere's routes. `id` is the request id."""

    message: str
    id: str


class FlatError(msgspec.Struct, frozen=True):
    """Error body of all other routes."""

    error: str
    error_type: str
    request_id: str


ERROR_SCHEMAS: Mapping[ApiDialect, type[msgspec.Struct]] = MappingProxyType(
    {
        ApiDialect.OPENAI: OpenAIError,
        ApiDialect.FLAT: FlatError,
        ApiDialect.INFINITY: InfinityError,
        ApiDialect.COHERE: CohereError,
    }
)


def body(error: RequestError, dialect: ApiDialect, request_id: str) -> bytes:
    """Return the JSON body of an error in the format of a dialect."""
    return msgspec.json.encode(_error_body(error, ERROR_MAPPINGS[type(error)], dialect, request_id))


def _error_body(error: RequestError, mapping: ErrorMapping, dialect: ApiDialect, request_id: str) -> msgspec.Struct:
    if dialect is ApiDialect.FLAT:
        return FlatError(error.message, mapping.error_type, request_id)
    if dialect is ApiDialect.COHERE:
        return CohereError(error.message, request_id)
    details = OpenAIErrorBody(error.message, mapping.type, error.param, mapping.reason, request_id)
    if dialect is ApiDialect.OPENAI:
        return OpenAIError(details)
    return InfinityError(details, [Detail(["body", *filter(None, [error.param])], error.message, mapping.reason)])
