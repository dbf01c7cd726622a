"""Hang detector: compares the duration of each running forward pass of a device with its time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

# A pass may take this many times the duration that the device's measured speed predicts for its tokens, because other
# programs may use the core.
SLACK = 20.0

# Weight of the newest pass in the moving average of the speed: it covers about ten passes.
_WEIGHT = 0.1


class HangDetector:
    """Measures the forward passes of one device. Thread-safe.

    >>> now = [0.0]
    >>> detector = HangDetector(10.0, clock=lambda: now[0])
    >>> with detector.timed_pass(tokens=128):
    ...     now[0] = 11.0
    ...     detector.stalled_seconds()
    11.0
    """

    def __init__(self, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._lock = Lock()
        self._running: dict[int, tuple[float, int]] = {}  # pass number -> its start time and padded tokens
        self._numbers = 0
        self._pace = 0.0  # seconds per padded token
        self.batches = 0  # passes that have ended
        self.busy_seconds = 0.0

    @contextmanager
    def timed_pass(self, tokens: int) -> Iterator[None]:
        """Time a forward pass over `tokens` padded tokens, which runs inside the `with` block."""
        with self._lock:
            number = self._numbers = self._numbers + 1
            started = self._clock()
            self._running[number] = started, tokens
        ended = False
        try:
            yield
            ended = True
        finally:
            with self._lock:
                del self._running[number]
                self._record(self._clock() - started, tokens if ended else 0)

    def stalled_seconds(self) -> float | None:
        """Return the age in seconds of the oldest running pass that exceeds its limit; None if no pass exceeds it."""
        with self._lock:
            now = self._clock()
            overruns = [
                now - started for started, tokens in self._running.values() if now - started > self._limit(tokens)
            ]
            return max(overruns, default=None)

    def _limit(self, tokens: int) -> float:
        return max(self._stall_seconds, SLACK * self._pace * tokens)

    def _record(self, seconds: float, tokens: int) -> None:
        """Record a pass that ended. `tokens` is 0 for a failed pass: it counts as busy time, not for the speed."""
        self.batches += 1
        self.busy_seconds += seconds
        if tokens:
            self._pace += (_WEIGHT if self._pace else 1.0) * (seconds / tokens - self._pace)
