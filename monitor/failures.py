"""What goes wrong in the monitor is counted and logged, and never reaches what it watches."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from threading import Lock

import msgspec

logger = logging.getLogger(__name__)


class MonitorPart(StrEnum):
    """Where a failure happened."""

    OBSERVE = "observe"
    DRIFT = "drift"
    RECALL = "recall"
    EVIDENCE = "evidence"
    CANARY = "canary"
    PROBE = "probe"
    SNAPSHOT = "snapshot"


class FailureCounts(msgspec.Struct, frozen=True):
    """Exceptions, by part."""

    observe: int = 0
    drift: int = 0
    recall: int = 0
    evidence: int = 0
    canary: int = 0
    probe: int = 0
    snapshot: int = 0


class FailureCounter:
    """Thread-safe.

    >>> faults = Faults()
    >>> with faults.guard(Part.RECALL):
    ...     pass
    >>> faults.failures.recall
    0
    """

    def __init__(self) -> None:
        self.failures = FailureCounts()
        self._lock = Lock()

    @contextmanager
    def guard(self, part: MonitorPart) -> Iterator[None]:
        """Count and log what is raised inside."""
        try:
            yield
        except Exception:
            with self._lock:
                count = getattr(self.failures, part) + 1
                self.failures = msgspec.structs.replace(self.failures, **{part: count})
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th...: a fault on every query must not flood the log
                logger.exception("monitoring failed (%s, %d times so far)", part, count)
