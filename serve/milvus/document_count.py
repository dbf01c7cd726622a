"""How many documents a collection holds, known without waiting: counted beside who asks, and told the next time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock

from embedship.serve.search.backend import BackendUnavailable

FRESH_SECONDS = 10.0


class DocumentCount:
    """Thread-safe. While the server is away, the last count stands."""

    def __init__(self, count: Callable[[], int]) -> None:
        """Raises Lost."""
        self._ask = count
        self._count, self._counted = count(), time.monotonic()
        self._lock = Lock()
        self._asking = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tally")

    @property
    def count(self) -> int:
        with self._lock:
            if not self._asking and time.monotonic() > self._counted + FRESH_SECONDS:
                self._asking = True
                self._thread.submit(self._again)
            return self._count

    def changed(self, by: int) -> None:
        """This process has put so many more, or deleted them."""
        with self._lock:
            self._count += by

    def close(self) -> None:
        self._thread.shutdown()

    def _again(self) -> None:
        try:
            with suppress(BackendUnavailable):
                count = self._ask()
                with self._lock:
                    self._count = count
        finally:
            with self._lock:
                self._asking, self._counted = False, time.monotonic()
