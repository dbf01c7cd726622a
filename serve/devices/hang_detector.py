"""The heartbeat of a device: how long its forward passes have been running, against how long they may. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

# A pass may take so many times what the device's own pace says of its tokens: a neighbour may have the core.
SLACK = 20.0

# Weight of the last pass in the pace: about ten passes are remembered.
_WEIGHT = 0.1


class HangDetector:
    """Thread-safe.

    >>> now = [0.0]
    >>> pulse = Pulse(10.0, clock=lambda: now[0])
    >>> with pulse.beat(tokens=128):
    ...     now[0] = 11.0
    ...     pulse.stalled()
    11.0
    """

    def __init__(self, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._lock = Lock()
        self._running: dict[int, tuple[float, int]] = {}  # when each pass began, and its padded tokens
        self._numbers = 0
        self._pace = 0.0  # seconds a padded token
        self.batches = 0  # that came to an end
        self.busy_seconds = 0.0

    @contextmanager
    def timed_pass(self, tokens: int) -> Iterator[None]:
        """A forward pass over so many padded tokens runs inside."""
        with self._lock:
            number = self._numbers = self._numbers + 1
            began = self._clock()
            self._running[number] = began, tokens
        ended = False
        try:
            yield
            ended = True
        finally:
            with self._lock:
                del self._running[number]
                self._note(self._clock() - began, tokens if ended else 0)

    def stalled(self) -> float | None:
        """Seconds that the oldest pass beyond its limit has been running; None while all are within theirs."""
        with self._lock:
            now = self._clock()
            late = [now - began for began, tokens in self._running.values() if now - began > self._limit(tokens)]
            return max(late, default=None)

    def _limit(self, tokens: int) -> float:
        return max(self._stall_seconds, SLACK * self._pace * tokens)

    def _note(self, seconds: float, tokens: int) -> None:
        """A pass that failed, of 0 tokens, was busy and says nothing of the pace."""
        self.batches += 1
        self.busy_seconds += seconds
        if tokens:
            self._pace += (_WEIGHT if self._pace else 1.0) * (seconds / tokens - self._pace)
