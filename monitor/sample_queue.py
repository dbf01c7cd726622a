"""The bounded queue between the request path and the monitor's thread."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Event

import numpy as np
from numpy.typing import NDArray

# What comes is looked at together. A thread that woke for each query would, on a busy machine, take turns with the one
# that answers.
GATHERED_SECONDS = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class QuerySample:
    """Queries of one call that were picked: n rows, each for drift, for recall, or for both."""

    vectors: NDArray[np.float32]  # (n, d), a copy: the caller may reuse its memory
    ids: NDArray[np.int64] | None  # (n, >= k), what the index answered
    drift: NDArray[np.bool_]  # (n,)
    recall: NDArray[np.bool_]  # (n,)
    at: float  # Unix time
    call: int  # queries of one call have one number, -1 for a query that came alone
    texts: tuple[str, ...] | None  # (n,), only where texts are kept
    exact: Callable[[NDArray[np.float32], int], NDArray[np.int64]] | None = None  # of the index that answered


class SampleQueue:
    """First in, first out, at most `capacity` queries: what does not fit is refused, never waited for.

    An Event in the queue marks a place: whoever takes it out knows that everything before has been taken.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.closed = False
        self._changed = Condition()
        self._items: deque[QuerySample | Event] = deque()
        self._queries = 0
        self._marked = False

    def offer(self, sampled: QuerySample) -> bool:
        """Return whether there was room."""
        with self._changed:
            if self.closed or self._queries + len(sampled.vectors) > self.capacity:
                return False
            self._queries += len(sampled.vectors)
            self._items.append(sampled)
            if len(self._items) == 1 or self._pressing():
                self._changed.notify()
            return True

    def mark(self) -> Event:
        """Put an event in the queue, whatever the capacity."""
        event = Event()
        with self._changed:
            self._items.append(event)
            self._marked = True
            self._changed.notify()
        return event

    def take(self, timeout: float) -> list[QuerySample | Event]:
        """Return what came, oldest first, and what came soon after; nothing after timeout seconds, or when closed."""
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
        """Refuse from now on, forget what is queued, and return how many queries that were."""
        with self._changed:
            forgotten, self._queries = self._queries, 0
            self.closed = True
            self._items.clear()
            self._changed.notify_all()
        return forgotten
