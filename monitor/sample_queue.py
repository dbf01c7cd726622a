"""SampleQueue: the bounded queue between the request path and the monitor's thread."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Event

import numpy as np
from numpy.typing import NDArray

# Samples that arrive within this time are processed together. A thread that woke up for each query would compete with
# the request path on a busy machine.
GATHERED_SECONDS = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class QuerySample:
    """The sampled queries of one call: n rows, each for drift, for recall, or for both."""

    vectors: NDArray[np.float32]  # (n, d), a copy: the caller may reuse its memory
    ids: NDArray[np.int64] | None  # (n, >= k), the answer of the index
    drift: NDArray[np.bool_]  # (n,)
    recall: NDArray[np.bool_]  # (n,)
    at: float  # Unix time
    call: int  # the same number for all queries of one call; -1 for a call with a single query
    texts: tuple[str, ...] | None  # (n,), only if texts are kept
    exact: Callable[[NDArray[np.float32], int], NDArray[np.int64]] | None = None  # search in the index that answered


class SampleQueue:
    """First in, first out, at most `capacity` queries. A sample that does not fit is refused; nothing waits.

    An Event in the queue marks a position: when it is taken out, everything before it has been taken out.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.closed = False
        self._changed = Condition()
        self._items: deque[QuerySample | Event] = deque()
        self._queries = 0
        self._marked = False

    def offer(self, sampled: QuerySample) -> bool:
        """Add a sample. Return False if the queue is full or closed."""
        with self._changed:
            if self.closed or self._queries + len(sampled.vectors) > self.capacity:
                return False
            self._queries += len(sampled.vectors)
            self._items.append(sampled)
            if len(self._items) == 1 or self._pressing():
                self._changed.notify()
            return True

    def mark(self) -> Event:
        """Add an event to the queue, regardless of the capacity, and return it."""
        event = Event()
        with self._changed:
            self._items.append(event)
            self._marked = True
            self._changed.notify()
        return event

    def take(self, timeout: float) -> list[QuerySample | Event]:
        """Return all items, oldest first. Empty after `timeout` seconds without an item, or when closed.

        After the first item it waits up to GATHERED_SECONDS for more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self.closed, timeout)
            if self._items:
                self._changed.wait_for(self._pressing, GATHERED_SECONDS)
            taken = [*self._items]
            self._items.clear()
            self._queries, self._marked = 0, False
            return taken

    def _pressing(self) -> bool:
        return self.closed or self._marked or self._queries > self.capacity // 2

    def close(self) -> int:
        """Refuse new samples, discard the queued ones, and return how many queries were discarded."""
        with self._changed:
            discarded, self._queries = self._queries, 0
            self.closed = True
            self._items.clear()
            self._changed.notify_all()
        return discarded
