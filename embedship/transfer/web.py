"""HTTP with timeouts, whose failures are this folder's errors; a file from an offset on, whatever the server can."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from embedship.errors import MissingExtra, UsageError
from embedship.transfer.errors import AccessDenied, NotFound, TransferError, TransferInterrupted

try:
    import requests
    from requests.auth import AuthBase
except ModuleNotFoundError:
    raise MissingExtra("requests", "pull") from None

PIECE = 1 << 20  # bytes
_TIMEOUTS = (10.0, 60.0)  # seconds to connect, and between two bytes
_PASSING = {408, 425, 429}  # besides 5xx
_LOST = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


class BearerAuth(AuthBase):
    """A token; given like this and not as a header, so that ~/.netrc does not replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class HttpSession(requests.Session):
    """Follows redirects, but none to where nothing proves who answers, if something proved it before.

    `requests` alone follows https to http, and looks ~/.netrc up again for each address on the way.
    """

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Called by `requests` before each redirected request is sent. Raises TransferError."""
        before, after = str(response.request.url), str(prepared_request.url)
        if _downgrades(before, after):
            raise TransferError(
                f"{urlsplit(before).netloc} redirects away from TLS, to http://{urlsplit(after).netloc}, where nothing "
                "proves who answers: nothing was sent there. Give the address that it should redirect to"
            )
        super().rebuild_auth(prepared_request, response)


def _downgrades(before: str, after: str) -> bool:
    source, target = urlsplit(before), urlsplit(after)
    if target.scheme == "https":
        return False
    if is_loopback(source.hostname):
        return not is_loopback(target.hostname)
    return source.scheme == "https"


class HttpRequest(NamedTuple):
    """One request. Credentials are not sent on when another host is redirected to."""

    method: str
    url: str
    headers: Mapping[str, str] = {}
    data: bytes | IO[bytes] | None = None
    auth: AuthBase | None = None


def is_loopback(host: str | None) -> bool:
    return host in {"localhost", "127.0.0.1", "::1"}


@contextmanager
def send(session: HttpSession, call: HttpRequest, accept: frozenset[int] = frozenset()) -> Iterator[requests.Response]:
    """The answer, its body not read yet. Raises the errors of this folder unless it is a success or in `accept`."""
    where = urlsplit(call.url).netloc
    try:
        with session.request(
            call.method,
            call.url,
            headers=dict(call.headers),
            data=call.data,
            auth=call.auth,
            timeout=_TIMEOUTS,
            stream=True,
        ) as answer:
            if not answer.ok and answer.status_code not in accept:
                raise _refusal(answer)
            yield answer
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):  # the library has one class for all that TLS can meet
            raise TransferInterrupted(f"{where} broke TLS off: is it up, and does it speak https?") from None
        raise TransferError(
            f"{where} has no certificate that is trusted here: give its authority's in REQUESTS_CA_BUNDLE"
        ) from None
    except _LOST as error:
        raise TransferInterrupted(
            f"{where} cannot be reached, or hung up ({type(error).__name__}): is it up?"
        ) from None
    except requests.RequestException as error:
        raise UsageError(f"{where} cannot be asked ({type(error).__name__}): is the address right?") from None


def _refusal(answer: requests.Response) -> TransferError:
    status, where = answer.status_code, urlsplit(answer.url)  # after redirects; its query may be a signature
    said = f"{where.netloc} answered {status} for {where.path}"
    if status in (404, 410):
        return NotFound(said)
    if status in (401, 403):
        return AccessDenied(f"{said}: give credentials that may read there (docs/deploy.md says where)")
    if status == 416:
        return TransferError(f"{said}: its file is shorter than bundle.json says")
    if status >= 500 or status in _PASSING:
        return TransferInterrupted(said, _seconds(answer.headers.get("Retry-After")))
    return TransferError(said)


def _seconds(given: str | None) -> float | None:
    return float(given) if given and re.fullmatch(r"\d{1,6}", given) else None


def ranged(call: HttpRequest, offset: int) -> HttpRequest:
    """Ask for all from `offset` on, and never for what a proxy has compressed: an offset would count other bytes."""
    wanted = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    return call._replace(headers={**call.headers, **wanted})


def body(answer: requests.Response, offset: int) -> Iterator[bytes]:
    """The bytes from `offset` on, also from a server that knows no ranges and sent all of it."""
    skip = offset - _begins(answer)
    for piece in answer.iter_content(PIECE):
        if skip < len(piece):
            yield piece[skip:]
        skip = max(0, skip - len(piece))


def capped(answer: requests.Response, limit: int) -> bytes:
    """The whole body, or its first `limit` + 1 bytes if it is larger."""
    found = b""
    for piece in answer.iter_content(PIECE):
        found += piece
        if len(found) > limit:
            break
    return found[: limit + 1]


def _begins(answer: requests.Response) -> int:
    if answer.status_code != 206:
        return 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if not found:
        raise TransferError(f"{urlsplit(answer.url).netloc} sent a part of a file and does not say which")
    return int(found[1])
