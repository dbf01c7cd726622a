"""A share of a core that may be spent: a token bucket whose tokens are seconds of work."""

import time
from collections.abc import Callable

BURST_SECONDS = 10.0  # what was not spent is kept this long


class CpuBudget:
    """Spend first, earn it back later: the cost of an exact search is known only when it is done.

    >>> allowance = Allowance(0.5, clock=lambda: 100.0)
    >>> allowance.spend(6.0)
    >>> allowance.left
    False
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`share` is seconds of work a second; 0 allows none."""
        self._share = share
        self._clock = clock
        self._balance = share * BURST_SECONDS
        self._at = clock()

    @property
    def left(self) -> bool:
        now = self._clock()
        earned = self._share * max(0.0, now - self._at)
        self._balance, self._at = min(self._balance + earned, self._share * BURST_SECONDS), now
        return self._balance > 0

    def spend(self, seconds: float) -> None:
        self._balance -= seconds
