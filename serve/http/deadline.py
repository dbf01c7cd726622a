"""How long a request may take once its body has come: what its client says, at most what the server allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

from embedship.serve.errors import ClientDeadlineExceeded, Invalid, ServerDeadlineExceeded

HEADER = b"x-request-timeout-ms"


class RequestTimeout(NamedTuple):
    seconds: float
    chosen: bool  # by the client; otherwise it is the server's own, and who is late is the server


def timeout_from_headers(headers: Iterable[tuple[bytes, bytes]], most: float) -> RequestTimeout:
    """Raises Invalid for a header that is no whole number above 0."""
    given = next((value for name, value in headers if name == HEADER), None)
    if given is None:
        return RequestTimeout(most, chosen=False)
    if not (given.isdigit() and len(given) < 10 and int(given)):
        raise Invalid("X-Request-Timeout-Ms: give whole milliseconds, 1 or more.")
    seconds = int(given) / 1000
    return RequestTimeout(min(most, seconds), chosen=seconds < most)


@asynccontextmanager
async def enforce_timeout(limit: RequestTimeout) -> AsyncIterator[None]:
    """Raise Expired or TimedOut, inside and at once, when the time is up.

    The claim on texts that wait in the lanes ends with it: they are dropped before they cost anything.
    """
    try:
        async with asyncio.timeout(limit.seconds) as timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        less = f"No answer within {limit.seconds:g} s: send fewer texts a request, or allow more time"
        if limit.chosen:
            raise ClientDeadlineExceeded(f"{less} (X-Request-Timeout-Ms).") from None
        raise ServerDeadlineExceeded(f"{less} (--request-seconds).") from None
