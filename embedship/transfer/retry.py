"""Retry policy: repeats an operation after a temporary failure, with growing random waits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from embedship.transfer.errors import TransferInterrupted

_LONGEST_RETRY_AFTER = 120.0  # seconds: the longest Retry-After of a server that is respected


class RetryPolicy(NamedTuple):
    """Gives up after `failures` in a row. Waits double, with full jitter, so that many pods do not retry at once.

    Source: Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """

    failures: int = 8
    first: float = 0.5  # seconds
    longest: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failed: int, error: TransferInterrupted) -> None:
        """Sleep after the `failed`-th failure in a row. Raises `error` if that was the last one allowed."""
        if failed >= self.failures:
            raise error
        seconds = random.uniform(0, min(self.longest, self.first * 2 ** (failed - 1)))
        self.sleep(max(seconds, min(error.retry_after or 0.0, _LONGEST_RETRY_AFTER)))

    def run(self, work: Callable[[], None]) -> None:
        """Call `work` until it succeeds. Raises TransferInterrupted when the failures are used up."""
        failed = 0
        while True:
            try:
                return work()
            except TransferInterrupted as error:
                failed += 1
                self.wait(failed, error)
