"""When a live index is compacted, on a thread of its own, and what if that fails."""

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

# Below so many changes a compaction is not worth its work.
LEAST_CHANGES = 1_000

# After a failure: a full disk is seldom emptied within seconds.
RETRY_SECONDS = 60.0

# Added to the thread's niceness: whoever searches goes first.
_NICE = 10


class CompactionResult(StrEnum):
    """Label of embedship_index_compactions_total."""

    DONE = "done"
    FAILED = "failed"


Told = Callable[[CompactionResult, float], object]  # what came of a compaction, and the seconds it took


def due(size: IndexSize, share: float, least: int = LEAST_CHANGES) -> bool:
    """Whether the changes are so many, as a share of the rows, that searches pay for them."""
    return size.rows > 0 and size.changes >= max(least, share * size.rows)


class CompactionScheduler:
    """Looks after each change that it is told of."""

    def __init__(
        self,
        live: MutableIndex,
        share: float,
        told: Told,
        least: int = LEAST_CHANGES,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._live = live
        self._share, self._least = share, least
        self._told = told
        self._retry_seconds = retry_seconds
        self._changed = Condition()
        self._asked = True  # what was left over when the last process ended
        self._closed = False
        self._thread = Thread(target=self._run, name="compaction", daemon=True)
        self._thread.start()

    def compact_if_due(self) -> None:
        """There were changes. Never blocks for long."""
        with self._changed:
            self._asked = True
            self._changed.notify()

    def close(self) -> None:
        """A compaction that runs is waited for: it ends whole, or would be made again."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while self._wait():
            if not self._looked():
                self._pause()

    def _wait(self) -> bool:
        """Until there is something to look at; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._closed)
            self._asked = False
            return not self._closed

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, self._retry_seconds)
            self._asked = True

    def _looked(self) -> bool:
        """Compact if it is due; False if that failed."""
        began = time.perf_counter()
        try:
            if due(self._live.size, self._share, self._least):
                self._live.compact()
                self._told(CompactionResult.DONE, time.perf_counter() - began)
        except (EmbedshipError, OSError, sqlite3.Error) as error:
            logger.error("%s was not compacted: %s (again in %g s)", self._live.folder, error, self._retry_seconds)
        except Exception:  # a thread that ended here would never compact again, and nobody would hear of it
            logger.exception("%s was not compacted (again in %g s)", self._live.folder, self._retry_seconds)
        else:
            return True
        self._told(CompactionResult.FAILED, time.perf_counter() - began)
        return False
