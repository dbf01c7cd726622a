"""Request context: id, trace id, token counts and phase times of the current request.

Phases follow each other without gaps, so their durations add up to the total.
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
    """Priority of a request in the queue (header X-Embedship-Lane)."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


# The id is copied into headers and logs, so only characters are allowed that need no escaping there.
_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._~:/+=@-]{0,127}")

# https://www.w3.org/TR/trace-context: version, trace, parent, flags. Only versions after 00 may have more fields.
_TRACE = re.compile(rb"(?!ff|00.{53}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class RequestPhase(StrEnum):
    """Phases of a request. The comments say when each phase ends."""

    READ = "read"  # the body has been received, decoded and validated
    TOKENISE = "tokenise"  # the texts have been checked, admitted and tokenised
    QUEUE = (
        "queue"  # the first batch has started; if the request ends before that batch is done, all waiting counts here
    )
    INFERENCE = "inference"  # the last vector is computed; includes batches of other requests in between
    SEARCH = "search"  # the documents have been found
    SERIALISE = "serialise"  # the response has been serialised


class PhaseSpan(NamedTuple):
    """A phase with its start and end, in seconds of `time.perf_counter`."""

    phase: RequestPhase
    began: float
    ended: float


class RequestContext:
    """Context of one request, written by the event loop only. `id` is the client's X-Request-Id if it is valid."""

    __slots__ = ("began", "counted_separately", "id", "lengths", "marks", "trace")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.began = time.perf_counter()
        self.marks: list[tuple[RequestPhase, float]] = []  # each phase with its end
        self.lengths: Sequence[int] = ()  # tokens of each text
        self.trace: str | None = None  # id of the client's trace, if it sent one
        self.counted_separately = False  # in metrics, under the route's separate label
        request_id = parent = b""
        for name, value in headers:
            if name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                parent = value
        if parent and (match := _TRACE.fullmatch(parent)):
            self.trace = match[1].decode()
        self.id = request_id.decode() if request_id and _ID.fullmatch(request_id) else self._generate_id()

    def _generate_id(self) -> str:
        """Return a random id, so that clients cannot send feedback on other clients' searches.

        It starts with the trace id if there is one; a trace may contain many requests.
        """
        suffix = secrets.token_hex(8)
        return f"{self.trace}-{suffix}" if self.trace else suffix

    def mark(self, phase: RequestPhase, at: float | None = None) -> None:
        """Record the end of a phase: now, or at the given time of `time.perf_counter`, which is after the last mark."""
        self.marks.append((phase, time.perf_counter() if at is None else at))

    def spans(self) -> Iterator[PhaseSpan]:
        """Yield the phases in order."""
        began = self.began
        for phase, ended in self.marks:
            yield PhaseSpan(phase, began, ended)
            began = ended

    def seconds(self) -> dict[RequestPhase, float]:
        """Return the total seconds per phase, in the order in which the phases first ended."""
        totals: dict[RequestPhase, float] = {}
        began = self.began
        for phase, ended in self.marks:
            totals[phase] = totals.get(phase, 0.0) + ended - began
            began = ended
        return totals

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return X-Request-Id and, if there are phases, Server-Timing in milliseconds (https://www.w3.org/TR/server-timing/)."""
        name = (b"x-request-id", self.id.encode())
        if not self.marks:
            return (name,)
        timings, began = [], self.began
        for phase, ended in self.marks:
            timings.append("%s;dur=%.3f" % (phase, 1e3 * (ended - began)))  # noqa: UP031 - an f-string takes a third more
            began = ended
        timings.append(f"total;dur={1e3 * (time.perf_counter() - self.began):.3f}")
        return (name, (b"server-timing", ", ".join(timings).encode()))


# None outside a request: in background tasks of the monitor, and in device threads.
current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)


def count_separately() -> None:
    """Count the current request under the `separate_label` of its route."""
    if context := current_request.get():
        context.counted_separately = True


def end_phase(phase: RequestPhase, at: float | None = None) -> None:
    """Record the end of a phase of the current request, if there is one."""
    if context := current_request.get():
        context.mark(phase, at)
