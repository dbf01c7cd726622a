"""Admission control: each request needs a permit for its texts before it may enter the queue of a model.

`BatchExecutor.encode` takes a permit as an argument, so no code can submit texts without one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from embedship.serve.errors import Overloaded, TooLarge
from embedship.serve.settings import BULK_RESERVED_FRACTION
from embedship.serve.telemetry.request_context import Priority

# Throughput is measured over the last interval of this length in which the model had work, and Retry-After is computed
# from it. _LONGEST_WAIT is the largest Retry-After that is sent, in seconds.
_PACE_SECONDS = 5.0
_LONGEST_WAIT = 60


class QueuePermit:
    """Permission to have `texts` texts in the queue.

    It ends with the `with` block, or later when work that the block started on other threads ends (`hold_until`).
    Only AdmissionController creates permits.
    """

    def __init__(self, admission: AdmissionController, texts: int, uses_model: bool) -> None:
        self.texts = texts
        self.uses_model = uses_model
        self._admission = admission
        self._holders = 1

    def record_finished(self, texts: int) -> None:
        """Count texts that the model has finished, for the measured throughput."""
        self._admission._pace.record(texts)

    def hold_until(self, done: asyncio.Future[Any]) -> None:
        """Keep the permit until `done` is done, even if the `with` block ends earlier."""
        self._holders += 1
        done.add_done_callback(lambda _: self._release())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._release()

    def _release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._admission._leave(self)


class AdmissionController:
    """Limits how many texts are in the queue at a time. Use it from the event loop only.

    >>> with admission.acquire(len(texts), Priority.BULK) as permit:      # doctest: +SKIP
    ...     vectors = await workers.encode(permit, tokens, Priority.BULK)
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.inside = 0
        self._pace = _ThroughputMeter(clock)

    def acquire(self, texts: int, lane: Priority, *, uses_model: bool = True) -> QueuePermit:
        """Return a permit for `texts` texts.

        `uses_model`: the texts go through the model, so throughput is measured while the permit is held. Raises
        TooLarge if the request is larger than the whole queue, Overloaded (with Retry-After) if the queue is too full.
        """
        limit = self.limit(lane)
        if texts > limit:
            raise TooLarge(
                f"The request has {texts} texts, but this server accepts at most {limit} texts per request. "
                "Split the request."
            )
        if self.inside + texts > limit:
            wait = self._pace.seconds_for(self.inside + texts - limit)
            raise Overloaded(
                f"The queue is full ({self.inside} texts). Send the request again in {wait} s.",
                headers={"Retry-After": str(wait)},
            )
        self.inside += texts
        if uses_model:
            self._pace.enter(texts)
        return QueuePermit(self, texts, uses_model)

    def limit(self, lane: Priority) -> int:
        """Return the maximum number of texts in the queue at which requests of this lane are accepted."""
        return (
            self.capacity if lane is Priority.INTERACTIVE else self.capacity - self.capacity // BULK_RESERVED_FRACTION
        )

    def _leave(self, permit: QueuePermit) -> None:
        self.inside -= permit.texts
        if permit.uses_model:
            self._pace.leave(permit.texts)


class _ThroughputMeter:
    """Measures texts per second while the model has work: one counter for this interval, one for the previous one.

    Idle time is left out. After a quiet minute, a few texts per minute would otherwise look like the speed of the
    model.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._inside = 0  # texts that the model has to compute
        self._busy_since = 0.0
        self._busy = 0.0  # seconds with work in this interval, before _busy_since
        self._texts = 0
        self._previous = 0.0  # texts per second

    def enter(self, texts: int) -> None:
        if not self._inside:
            self._busy_since = self._clock()
        self._inside += texts

    def leave(self, texts: int) -> None:
        self._inside -= texts
        if not self._inside:
            self._busy += self._clock() - self._busy_since

    def record(self, texts: int) -> None:
        """Count texts that the model has finished."""
        if (busy := self._busy_seconds()) > _PACE_SECONDS:
            self._previous = self._texts / busy
            self._busy, self._busy_since, self._texts = 0.0, self._clock(), 0
        self._texts += texts

    def seconds_for(self, texts: int) -> int:
        """Return the estimated whole seconds until `texts` texts have completed, from 1 to _LONGEST_WAIT.

        Returns 1 if no throughput has been measured yet.
        """
        busy = self._busy_seconds()
        pace = max(self._previous, self._texts / busy if busy > 0 else 0.0)
        return min(_LONGEST_WAIT, max(1, math.ceil(texts / pace))) if pace else 1

    def _busy_seconds(self) -> float:
        return self._busy + (self._clock() - self._busy_since if self._inside else 0.0)
