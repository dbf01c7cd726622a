"""What can go wrong between a request and its answer.

RequestError                 (openai, flat)
├── Malformed        400 400  the body is no JSON
├── Invalid          400 422  JSON, but not what the route takes
├── Unauthorised     401 401  no API key, or a wrong one
├── Forbidden        403 403  a key without the right to this, no key here that has it, or a page of another site
├── UnknownPath      404 404
├── WrongMethod      405 405
├── UnknownAnswer    404 404  /feedback on an answer that is not kept, or was judged before
├── SlowBody         408 408  the body came too slowly
├── NoIndex          409 409  /search without an index
├── NoReranker       409 409  /rerank, or a search that asks for it, without a re-ranker
├── ReadOnly         403 403  a change to an index that takes none
├── NoDocument       404 404  the index holds no document of this id
├── Reloading        409 409  a reload while another runs, or while the server stops
├── NotReloaded      409 409  the new bundle or index cannot be taken; the old one goes on
├── TooLarge         413 413  too many bytes, texts or characters
├── TooLong          413 413  more tokens than the model reads, and truncate=false
├── Overloaded       429 429  no permit left; carries Retry-After
├── HeadTooLarge     431 431  too many headers, or too long ones
├── ClientGone       499 499  nobody is there to read the answer
├── Crowded          503 503  too many connections; carries Retry-After
├── Expired          504 504  the deadline that its client chose passed before its answer
├── TimedOut         504 504  the server's own limit passed before its answer
├── EngineFailed     500 424  the device or its runtime failed, for this batch
├── DiskFull         507 507  a change that found no room on the disk
├── NotStored        503 503  a change that the disk refused
├── IndexAway        503 503  the index lies on a server that does not answer; carries Retry-After
└── Internal         500 500  a bug of ours

Two columns, for clients of OpenAI and clients of text-embeddings-inference expect different numbers for the same
mistake. Cohere's expect those of OpenAI, and Infinity's too, but for a body that is refused: 422, as FastAPI says it.
ANSWERS is the only place that knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, Self

import msgspec


class ApiDialect(StrEnum):
    """Whose shape an error takes. Each has room for the id of the request, where its clients do not mind."""

    OPENAI = "openai"  # {"error": {"message", "type", "param", "code", "request_id"}}
    FLAT = "flat"  # {"error", "error_type", "request_id"}, as text-embeddings-inference
    INFINITY = "infinity"  # OpenAI's, and {"detail": [{"loc", "msg", "type"}]} beside it
    COHERE = "cohere"  # {"message", "id"}


class RequestError(Exception):
    """`message` tells the client what to change; `param` is the field at fault, if it is one."""

    def __init__(self, message: str, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}


class InvalidJson(RequestError):
    """The body is not JSON."""


class Invalid(RequestError):
    """A field is missing, misspelt, of a wrong type or outside its range."""


class Unauthorised(RequestError):
    """The request carries no API key of this server."""


class Forbidden(RequestError):
    """The key has no right to this, no key here has it, or, without API keys, a web page of another site asks."""


class UnknownPath(RequestError):
    """No route has this path."""


class WrongMethod(RequestError):
    """The path is right, the method is not."""


class UnknownRequestId(RequestError):
    """No answer with this request id is kept, or it was judged before."""


class SlowBody(RequestError):
    """The body did not arrive in time."""


class NoIndex(RequestError):
    """The server was started without an index."""


class NoReranker(RequestError):
    """The server was started without --reranker."""


class ReadOnly(RequestError):
    """The server was started without --writable."""


class DocumentNotFound(RequestError):
    """The index holds no document with this id."""


class ReloadInProgress(RequestError):
    """A reload is running already, or the server is stopping."""


class ReloadFailed(RequestError):
    """The new bundle or index cannot be taken; the old one goes on answering."""


class TooLarge(RequestError):
    """Too many bytes, texts or characters."""


class TooLong(RequestError):
    """A text has more tokens than the model reads, and the request forbids truncation."""


class Overloaded(RequestError):
    """All permits are taken: come back after Retry-After seconds."""


class HeadTooLarge(RequestError):
    """The head has too many fields, or too many bytes."""


class ClientDisconnected(RequestError):
    """The client closed the connection before the answer."""


class TooManyConnections(RequestError):
    """The server holds as many connections as it takes: come back after Retry-After seconds."""


class ClientDeadlineExceeded(RequestError):
    """The deadline that the client chose passed before the answer."""


class ServerDeadlineExceeded(RequestError):
    """The time that the server gives itself passed before the answer."""


class EngineFailed(RequestError):
    """The device or its runtime failed on this batch."""


class DiskFull(RequestError):
    """Nothing of the change was written: the disk has no room left."""


class WriteFailed(RequestError):
    """Nothing of the change was written: the disk refused it."""


class IndexUnavailable(RequestError):
    """The index lies on a server that does not answer, or not as it should: come back after Retry-After seconds."""

    @classmethod
    def of(cls, error: Exception) -> Self:
        return cls(f"{str(error)[0].upper()}{str(error)[1:]}.", headers={"Retry-After": "1"})


class Internal(RequestError):
    """A bug in the server."""


class ErrorMapping(NamedTuple):
    """How one class of error is answered and counted."""

    openai: int
    flat: int
    reason: str  # label of embedship_rejections_total (below 500, and _CLIENTS) or of embedship_failures_total
    type: str  # OpenAI's "type"
    error_type: str  # text-embeddings-inference's "error_type"

    def status(self, family: ApiDialect) -> int:
        if family is ApiDialect.FLAT:
            return self.flat
        return 422 if family is ApiDialect.INFINITY and self.openai == 400 else self.openai


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
# The deadline of what has expired is its client's choice, and so is the number of connections: no failures of this
# server, and nothing to wake anybody for.
_CLIENTS = (TooManyConnections, ClientDeadlineExceeded)
REJECTIONS = tuple(answer.reason for kind, answer in ERROR_MAPPINGS.items() if answer.openai < 500 or kind in _CLIENTS)
FAILURES = tuple(answer.reason for answer in ERROR_MAPPINGS.values() if answer.reason not in REJECTIONS)


class OpenAIErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class OpenAIError(msgspec.Struct, frozen=True):
    """The error of OpenAI's routes."""

    error: OpenAIErrorBody


class Detail(msgspec.Struct, frozen=True):
    """FastAPI's account of one mistake."""

    loc: list[str]
    msg: str
    type: str


class InfinityError(msgspec.Struct, frozen=True):
    """The error of Infinity's routes: infinity_client reads `detail`, OpenAI's clients read `error`."""

    error: OpenAIErrorBody
    detail: list[Detail]


class CohereError(msgspec.Struct, frozen=True):
    """The error of Cohere's routes."""

    message: str
    id: str  # of the request


class FlatError(msgspec.Struct, frozen=True):
    """The error of all other routes."""

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


def body(error: RequestError, family: ApiDialect, request_id: str) -> bytes:
    """The JSON of an error in the shape its client parses."""
    return msgspec.json.encode(_shaped(error, ERROR_MAPPINGS[type(error)], family, request_id))


def _shaped(error: RequestError, answer: ErrorMapping, family: ApiDialect, request_id: str) -> msgspec.Struct:
    if family is ApiDialect.FLAT:
        return FlatError(error.message, answer.error_type, request_id)
    if family is ApiDialect.COHERE:
        return CohereError(error.message, request_id)
    told = OpenAIErrorBody(error.message, answer.type, error.param, answer.reason, request_id)
    if family is ApiDialect.OPENAI:
        return OpenAIError(told)
    return InfinityError(told, [Detail(["body", *filter(None, [error.param])], error.message, answer.reason)])
