"""Graceful shutdown: decides when a draining server may stop. It has no side effects except its own counters.

After SIGTERM, a load balancer needs some time to notice that the server is not ready, and sends requests until then. So
the server continues to answer until requests stop arriving, or until its time limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class GracefulShutdown:
    """Counts running requests, and measures the time since the last request arrived.

    >>> drain = GracefulShutdown(30.0)
    >>> drain.begin(quiet_seconds=0.0)
    >>> drain.may_stop
    True
    """

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.inside = 0
        self.draining = False
        self._limit = limit_seconds
        self._clock = clock
        self._quiet = 0.0
        self._began = self._last = clock()

    def enter(self) -> None:
        """Count a request that starts."""
        self.inside += 1
        self._last = self._clock()

    def leave(self) -> None:
        """Count a request that ends."""
        self.inside -= 1

    def begin(self, quiet_seconds: float) -> None:
        """Start to drain. The server may stop when no request is running and none has arrived for `quiet_seconds`."""
        self.draining = True
        self._quiet = quiet_seconds
        self._began = self._clock()

    @property
    def may_stop(self) -> bool:
        """Whether the server may stop accepting connections."""
        if not self.draining:
            return False
        now = self._clock()
        quiet = not self.inside and now - max(self._last, self._began) >= self._quiet
        return quiet or now - self._began >= self._limit
