"""Number of documents of a collection, available without waiting: it is recounted in the background."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock

from embedship.serve.search.backend import BackendUnavailable

FRESH_SECONDS = 10.0


class DocumentCount:
    """Cached number of documents. Thread-safe. While the server is unreachable, the last count is returned."""

    def __init__(self, count: Callable[[], int]) -> None:
        """Call `count` once. Raises BackendUnavailable."""
        self._recount = count
        self._count, self._counted_at = count(), time.monotonic()
        self._lock = Lock()
        self._counting = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="document-count")

    @property
    def count(self) -> int:
        with self._lock:
            if not self._counting and time.monotonic() > self._counted_at + FRESH_SECONDS:
                self._counting = True
                self._thread.submit(self._refresh)
            return self._count

    def changed(self, by: int) -> None:
        """Add the net number of documents that this process has added and deleted."""
        with self._lock:
            self._count += by

    def close(self) -> None:
        self._thread.shutdown()

    def _refresh(self) -> None:
        try:
            with suppress(BackendUnavailable):
                count = self._recount()
                with self._lock:
                    self._count = count
        finally:
            with self._lock:
                self._counting, self._counted_at = False, time.monotonic()
