"""Try again what may pass, a little later each time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from embedship.transfer.errors import TransferInterrupted

_LONGEST_ASKED = 120.0  # seconds that a server's Retry-After is followed


class RetryPolicy(NamedTuple):
    """So many failures in a row end it. Waits double, with full jitter: a thousand pods do not come back at once.

    Source: Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """

    failures: int = 8
    first: float = 0.5  # seconds
    longest: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failed: int, error: TransferInterrupted) -> None:
        """Sleep after the `failed`-th failure in a row; raise `error` if that was the last."""
        if failed >= self.failures:
            raise error
        seconds = random.uniform(0, min(self.longest, self.first * 2 ** (failed - 1)))
        self.sleep(max(seconds, min(error.retry_after or 0.0, _LONGEST_ASKED)))

    def keep(self, work: Callable[[], None]) -> None:
        """Do it until it is done."""
        failed = 0
        while True:
            try:
                return work()
            except TransferInterrupted as error:
                failed += 1
                self.wait(failed, error)
