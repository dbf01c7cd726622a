"""Request timeout: the value that the client sends, at most the server's, measured after the body has been received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

from embedship.serve.errors import ClientDeadlineExceeded, Invalid, ServerDeadlineExceeded

HEADER = b"x-request-timeout-ms"


class RequestTimeout(NamedTuple):
    """Timeout of one request."""

    seconds: float
    chosen: bool  # by the client; otherwise it is the server's own limit


def timeout_from_headers(headers: Iterable[tuple[bytes, bytes]], maximum: float) -> RequestTimeout:
    """Return the timeout of a request, at most `maximum` seconds. Raises Invalid for a header that is not valid."""
    value = next((value for name, value in headers if name == HEADER), None)
    if value is None:
        return RequestTimeout(maximum, chosen=False)
    if not (value.isdigit() and len(value) < 10 and int(value)):
        raise Invalid("X-Request-Timeout-Ms: the value must be a whole number of milliseconds, 1 or more.")
    seconds = int(value) / 1000
    return RequestTimeout(min(maximum, seconds), chosen=seconds < maximum)


@asynccontextmanager
async def enforce_timeout(limit: RequestTimeout) -> AsyncIterator[None]:
    """Context manager that raises ClientDeadlineExceeded or ServerDeadlineExceeded when the time is up.

    Texts of the request that are still queued are dropped before they are computed.
    """
    try:
        async with asyncio.timeout(limit.seconds) as timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        message = f"No response within {limit.seconds:g} s: send fewer texts per request, or allow more time"
        if limit.chosen:
            raise ClientDeadlineExceeded(f"{message} (X-Request-Timeout-Ms).") from None
        raise ServerDeadlineExceeded(f"{message} (--request-seconds).") from None
