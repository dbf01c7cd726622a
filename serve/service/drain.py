"""When may a server stop? It keeps answering until nobody asks any more, or until its time is up. Pure.

A load balancer learns only some time after SIGTERM that this server is not ready, and sends requests until then.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class GracefulShutdown:
    """Counts the requests inside, and knows since when it has been quiet.

    >>> drain = Drain(30.0)
    >>> drain.begin(quiet_seconds=0.0)
    >>> drain.over
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
        self.inside += 1
        self._last = self._clock()

    def leave(self) -> None:
        self.inside -= 1

    def begin(self, quiet_seconds: float) -> None:
        """From now on not ready. Quiet means: no request inside, and none has come for so many seconds."""
        self.draining = True
        self._quiet = quiet_seconds
        self._began = self._clock()

    @property
    def may_stop(self) -> bool:
        """Whether new connections may be refused."""
        if not self.draining:
            return False
        now = self._clock()
        quiet = not self.inside and now - max(self._last, self._began) >= self._quiet
        return quiet or now - self._began >= self._limit
