"""Compaction scheduler: compacts a mutable index on its own thread when enough has changed, and retries failures."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from threading import Condition, Thread

from embedship.errors import EmbedshipError
from embedship.serve.index import IndexSize
from embedship.serve.live.index import MutableIndex

logger = logging.getLogger(__name__)

# With fewer changes than this, a compaction costs more than it saves.
LEAST_CHANGES = 1_000

# Wait after a failure. A full disk is rarely emptied within seconds.
RETRY_SECONDS = 60.0

# Added to the thread's niceness, so that searches have priority.
_NICE = 10


class CompactionResult(StrEnum):
    """Result of a compaction; the label of embedship_index_compactions_total."""

    DONE = "done"
    FAILED = "failed"


ResultCallback = Callable[[CompactionResult, float], object]  # called with the result and the duration in seconds


def due(size: IndexSize, share: float, least: int = LEAST_CHANGES) -> bool:
    """Return whether there are enough changes for a compaction: at least `least`, and at least `share` of the rows."""
    return size.rows > 0 and size.changes >= max(least, share * size.rows)


class CompactionScheduler:
    """Checks after each change whether a compaction is due, and runs it on its own thread."""

    def __init__(
        self,
        live: MutableIndex,
        share: float,
        on_result: ResultCallback,
        least: int = LEAST_CHANGES,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._live = live
        self._share, self._least = share, least
        self._on_result = on_result
        self._retry_seconds = retry_seconds
        self._changed = Condition()
        self._requested = True  # check once at start: the last process may have left changes
        self._closed = False
        self._thread = Thread(target=self._run, name="compaction", daemon=True)
        self._thread.start()

    def compact_if_due(self) -> None:
        """Request a check after changes. It does not wait for the compaction."""
        with self._changed:
            self._requested = True
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread. Waits for a running compaction, because an interrupted one would have to start again."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while self._wait():
            if not self._try_compaction():
                self._pause()

    def _wait(self) -> bool:
        """Wait for a request. Return False once the scheduler is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._requested or self._closed)
            self._requested = False
            return not self._closed

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, self._retry_seconds)
            self._requested = True

    def _try_compaction(self) -> bool:
        """Compact if it is due. Return False if that failed."""
        started = time.perf_counter()
        try:
            if due(self._live.size, self._share, self._least):
                self._live.compact()
                self._on_result(CompactionResult.DONE, time.perf_counter() - started)
        except (EmbedshipError, OSError, sqlite3.Error) as error:
            logger.error("%s was not compacted: %s (retry in %g s)", self._live.folder, error, self._retry_seconds)
        except Exception:  # without this the thread would end, and the index would silently never be compacted again
            logger.exception("%s was not compacted (retry in %g s)", self._live.folder, self._retry_seconds)
        else:
            return True
        self._on_result(CompactionResult.FAILED, time.perf_counter() - started)
        return False
