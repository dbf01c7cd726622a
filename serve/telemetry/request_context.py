"""One request as it is seen from outside: its id, and which phase of its way took how long.

The phases follow one another without gaps, so that they add up to the whole.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from enum import StrEnum
from typing import NamedTuple


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    BULK = "bulk"


# An id goes into headers and logs as it came: nothing is let in that any of them would have to escape.
_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._~:/+=@-]{0,127}")

# https://www.w3.org/TR/trace-context: version, trace, parent, flags. Only versions after 00 may say more behind them.
_TRACE = re.compile(rb"(?!ff|00.{53}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class RequestPhase(StrEnum):
    READ = "read"  # its body has come, and is what the route takes
    TOKENISE = "tokenise"  # its texts are checked, admitted and tokens
    QUEUE = "queue"  # its first batch has begun; for who leaves or is late before that one is back, all of its waiting
    INFERENCE = "inference"  # its last vector is there; of several batches, those of others in between are in it, too
    SEARCH = "search"  # its documents are found
    SERIALISE = "serialise"  # the bytes of its answer are written


class PhaseSpan(NamedTuple):
    """A phase in seconds of `time.perf_counter`."""

    phase: RequestPhase
    began: float
    ended: float


class RequestContext:
    """Only the event loop writes to it. `id` is the client's own, where it sent one that is fit for it."""

    __slots__ = ("apart", "began", "id", "lengths", "marks", "trace")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.began = time.perf_counter()
        self.marks: list[tuple[RequestPhase, float]] = []  # each phase, and when it ended
        self.lengths: Sequence[int] = ()  # tokens of each text
        self.trace: str | None = None  # the id of the client's trace, if it sends one
        self.apart = False  # whether it is counted, and timed, apart from most of its route
        given = parent = b""
        for name, value in headers:
            if name == b"x-request-id":
                given = value
            elif name == b"traceparent":
                parent = value
        if parent and (known := _TRACE.fullmatch(parent)):
            self.trace = known[1].decode()
        self.id = given.decode() if given and _ID.fullmatch(given) else self._drawn()

    def _drawn(self) -> str:
        """At random, so that nobody can judge the answers of others; a trace may hold many requests."""
        own = secrets.token_hex(8)
        return f"{self.trace}-{own}" if self.trace else own

    def mark(self, phase: RequestPhase, at: float | None = None) -> None:
        """`phase` ended now, or at a time that `time.perf_counter` gave since the last mark."""
        self.marks.append((phase, time.perf_counter() if at is None else at))

    def spans(self) -> Iterator[PhaseSpan]:
        began = self.began
        for phase, ended in self.marks:
            yield PhaseSpan(phase, began, ended)
            began = ended

    def seconds(self) -> dict[RequestPhase, float]:
        """How long each phase took in all, in the order of their first ends."""
        found: dict[RequestPhase, float] = {}
        began = self.began
        for phase, ended in self.marks:
            found[phase] = found.get(phase, 0.0) + ended - began
            began = ended
        return found

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """X-Request-Id; and Server-Timing, in milliseconds, for what has phases (https://www.w3.org/TR/server-timing/)."""
        name = (b"x-request-id", self.id.encode())
        if not self.marks:
            return (name,)
        told, began = [], self.began
        for phase, ended in self.marks:
            told.append("%s;dur=%.3f" % (phase, 1e3 * (ended - began)))  # noqa: UP031 - an f-string takes a third more
            began = ended
        told.append(f"total;dur={1e3 * (time.perf_counter() - self.began):.3f}")
        return (name, (b"server-timing", ", ".join(told).encode()))


# Nobody's in the rounds of the monitor, and in the threads of streams.
current_request: ContextVar[RequestContext | None] = ContextVar("visit", default=None)


def count_separately() -> None:
    """Count the request that is answered here as its route's `apart`."""
    if visit := current_request.get():
        visit.apart = True


def end_phase(phase: RequestPhase, at: float | None = None) -> None:
    """Visit.mark for the request that is answered here, if one is."""
    if visit := current_request.get():
        visit.mark(phase, at)
