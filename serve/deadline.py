"""How long a request may take: what its client says, at most what the server allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from embedship.serve.errors import Expired, Invalid

HEADER = b"x-request-timeout-ms"


def seconds_of(headers: Iterable[tuple[bytes, bytes]], most: float) -> float:
    """Raises Invalid for a header that is no whole number above 0."""
    given = next((value for name, value in headers if name == HEADER), None)
    if given is None:
        return most
    if not (given.isdigit() and len(given) < 10 and int(given)):
        raise Invalid("X-Request-Timeout-Ms: give whole milliseconds, 1 or more.")
    return min(most, int(given) / 1000)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise Expired, inside and at once, when the time is up.

    The claim on texts that wait in the lanes ends with it: they are dropped before they cost anything.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Expired(
            f"No answer within {seconds:g} s: send fewer texts a request, or allow more time (X-Request-Timeout-Ms, "
            "--request-seconds)."
        ) from None
