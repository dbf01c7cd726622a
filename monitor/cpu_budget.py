"""CpuBudget: limits background work to a share of one core. A token bucket whose tokens are seconds of work."""

import time
from collections.abc import Callable

BURST_SECONDS = 10.0  # budget that is not used accumulates for this long


class CpuBudget:
    """A budget that may become negative: the cost of an exact search is known only after it is done.

    >>> budget = CpuBudget(0.5, clock=lambda: 100.0)
    >>> budget.spend(6.0)
    >>> budget.left
    False
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`share`: seconds of work allowed per second. 0 allows none."""
        self._share = share
        self._clock = clock
        self._balance = share * BURST_SECONDS
        self._at = clock()

    @property
    def left(self) -> bool:
        """Whether any budget is left now."""
        now = self._clock()
        earned = self._share * max(0.0, now - self._at)
        self._balance, self._at = min(self._balance + earned, self._share * BURST_SECONDS), now
        return self._balance > 0

    def spend(self, seconds: float) -> None:
        """Subtract the seconds of work that were done."""
        self._balance -= seconds
