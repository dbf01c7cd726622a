"""Who may enter: one permit a text. Work is submitted with a permit in hand, so it cannot be submitted without."""

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

# How far back the pace is measured that Retry-After is computed from, and the longest wait it asks for.
_PACE_SECONDS = 5.0
_LONGEST_WAIT = 60


class QueuePermit:
    """The right to have `texts` texts in the queue, until the `with` block ends and what it began on other threads.

    Only Admission makes them.
    """

    def __init__(self, admission: AdmissionController, texts: int, paced: bool) -> None:
        self.texts = texts
        self.paced = paced
        self._admission = admission
        self._holders = 1

    def hold_until(self, done: asyncio.Future[Any]) -> None:
        """Keep the permit until this future is done, although the block may have been left by then."""
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
    """Counts permits; used from the event loop only.

    >>> with admission.enter(len(texts), Lane.BULK) as permit:      # doctest: +SKIP
    ...     vectors = await workers.encode(permit, tokens, Lane.BULK)
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.inside = 0
        self._pace = _ThroughputMeter(clock)

    def acquire(self, texts: int, lane: Priority, *, paced: bool = True) -> QueuePermit:
        """Take a permit for `texts` texts, or raise Overloaded (TooLarge if no waiting would ever help).

        `paced`: these texts go through the model, and so tell how long others will have to wait for it.
        """
        limit = self.limit(lane)
        if texts > limit:
            raise TooLarge(f"{texts} texts are more than this server queues at all: send at most {limit} a request.")
        if self.inside + texts > limit:
            wait = self._pace.seconds_for(self.inside + texts - limit)
            raise Overloaded(
                f"The queue is full ({self.inside} texts). Send the request again in {wait} s.",
                headers={"Retry-After": str(wait)},
            )
        self.inside += texts
        return QueuePermit(self, texts, paced)

    def limit(self, lane: Priority) -> int:
        return (
            self.capacity if lane is Priority.INTERACTIVE else self.capacity - self.capacity // BULK_RESERVED_FRACTION
        )

    def _leave(self, permit: QueuePermit) -> None:
        self.inside -= permit.texts
        if permit.paced:
            self._pace.note(permit.texts)


class _ThroughputMeter:
    """Texts a second that left lately: two counters, of the running interval and of the one before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._texts = 0
        self._before = 0.0  # texts a second

    def note(self, texts: int) -> None:
        elapsed = self._clock() - self._since
        if elapsed > _PACE_SECONDS:
            self._before = self._texts / elapsed
            self._since, self._texts = self._clock(), 0
        self._texts += texts

    def seconds_for(self, texts: int) -> int:
        """Whole seconds until so many texts have left, at the pace of late."""
        elapsed = self._clock() - self._since
        pace = max(self._before, self._texts / elapsed if elapsed > 0 else 0.0)
        return min(_LONGEST_WAIT, max(1, math.ceil(texts / pace))) if pace else 1
