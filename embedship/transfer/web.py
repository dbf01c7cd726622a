"""HTTP client with timeouts: its failures are TransferErrors, and it reads files from any offset."""

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
_RETRIED_STATUS = {408, 425, 429}  # and all 5xx
_LOST_CONNECTION = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


class BearerAuth(AuthBase):
    """Sends a bearer token. It is not passed as a header, because requests would replace the header by ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class HttpSession(requests.Session):
    """Follows redirects, except from an address with TLS to one without TLS.

    Without this class, `requests` would follow https to http, and look up ~/.netrc again for each address on the way.
    """

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Check a redirect. `requests` calls this before it sends each redirected request. Raises TransferError."""
        before, after = str(response.request.url), str(prepared_request.url)
        if _downgrades(before, after):
            raise TransferError(
                f"{urlsplit(before).netloc} redirects to http://{urlsplit(after).netloc}, without TLS, where nothing "
                "proves which server answers. Nothing was sent there. Give the address that it should redirect to"
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
    """One HTTP request. Credentials are not sent on if it is redirected to another host."""

    method: str
    url: str
    headers: Mapping[str, str] = {}
    data: bytes | IO[bytes] | None = None
    auth: AuthBase | None = None


def is_loopback(host: str | None) -> bool:
    """Return whether the host is this machine."""
    return host in {"localhost", "127.0.0.1", "::1"}


@contextmanager
def send(session: HttpSession, call: HttpRequest, accept: frozenset[int] = frozenset()) -> Iterator[requests.Response]:
    """Send a request and yield the response before its body is read.

    Raises the errors of embedship.transfer.errors unless the status is a success or in `accept`.
    """
    host = urlsplit(call.url).netloc
    try:
        with session.request(
            call.method,
            call.url,
            headers=dict(call.headers),
            data=call.data,
            auth=call.auth,
            timeout=_TIMEOUTS,
            stream=True,
        ) as response:
            if not response.ok and response.status_code not in accept:
                raise _refusal(response)
            yield response
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):  # requests has one class for all TLS errors
            raise TransferInterrupted(
                f"{host} broke off the TLS connection: check that it is running and uses https"
            ) from None
        raise TransferError(
            f"{host} has a certificate that is not trusted here: set REQUESTS_CA_BUNDLE to a file with the certificate "
            "of its authority"
        ) from None
    except _LOST_CONNECTION as error:
        raise TransferInterrupted(
            f"{host} cannot be reached, or closed the connection ({type(error).__name__}): check that it is running"
        ) from None
    except requests.RequestException as error:
        raise UsageError(f"the request to {host} failed ({type(error).__name__}): check the address") from None


def _refusal(response: requests.Response) -> TransferError:
    status, url = response.status_code, urlsplit(response.url)  # after redirects; its query may be a signature
    message = f"{url.netloc} answered {status} for {url.path}"
    if status in (404, 410):
        return NotFound(message)
    if status in (401, 403):
        return AccessDenied(f"{message}: give credentials that may read there (docs/deploy.md says where)")
    if status == 416:
        return TransferError(f"{message}: its file is shorter than bundle.json says")
    if status >= 500 or status in _RETRIED_STATUS:
        return TransferInterrupted(message, _seconds(response.headers.get("Retry-After")))
    return TransferError(message)


def _seconds(header: str | None) -> float | None:
    return float(header) if header and re.fullmatch(r"\d{1,6}", header) else None


def range_request(call: HttpRequest, offset: int) -> HttpRequest:
    """Return a request for the bytes from `offset`, not compressed, because an offset is wrong in a compressed body."""
    wanted = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    return call._replace(headers={**call.headers, **wanted})


def body(response: requests.Response, offset: int) -> Iterator[bytes]:
    """Yield the bytes from `offset`, also if the server ignores ranges and sent the whole file."""
    skip = offset - _start(response)
    for piece in response.iter_content(PIECE):
        if skip < len(piece):
            yield piece[skip:]
        skip = max(0, skip - len(piece))


def read_limited(response: requests.Response, limit: int) -> bytes:
    """Return the whole body, or its first `limit` + 1 bytes if it is larger."""
    content = b""
    for piece in response.iter_content(PIECE):
        content += piece
        if len(content) > limit:
            break
    return content[: limit + 1]


def _start(response: requests.Response) -> int:
    """Return the offset in the file at which the response begins."""
    if response.status_code != 206:
        return 0
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not match:
        raise TransferError(
            f"{urlsplit(response.url).netloc} sent a part of a file, but a missing or invalid Content-Range"
        )
    return int(match[1])
