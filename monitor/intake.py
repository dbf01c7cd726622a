"""The bounded queue between the request path and the monitor's thread."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Event

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Queries of one call that were picked: n rows, each for drift, for recall, or for both."""

    vectors: NDArray[np.float32]  # (n, d), a copy: the caller may reuse its memory
    ids: NDArray[np.int64] | None  # (n, >= k), what the index answered
    drift: NDArray[np.bool_]  # (n,)
    recall: NDArray[np.bool_]  # (n,)
    at: float  # Unix time
    call: int  # queries of one call have one number, -1 for a query that came alone
    texts: tuple[str, ...] | None  # (n,), only where texts are kept
    exact: Callable[[NDArray[np.float32], int], NDArray[np.int64]] | None = None  # of the index that answered


class Intake:
    """First in, first out, at most `capacity` queries: what does not fit is refused, never waited for.

    An Event in the queue marks a place: whoever takes it out knows that everything before has been taken.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.closed = False
        self._changed = Condition()
        self._items: deque[Sampled | Event] = deque()
        self._queries = 0

    def offer(self, sampled: Sampled) -> bool:
        """Return whether there was room."""
        with self._changed:
            if self.closed or self._queries + len(sampled.vectors) > self.capacity:
                return False
            self._queries += len(sampled.vectors)
            self._items.append(sampled)
            self._changed.notify()
            return True

    def mark(self) -> Event:
        """Put an event in the queue, whatever the capacity."""
        event = Event()
        with self._changed:
            self._items.append(event)
            self._changed.notify()
        return event

    def take(self, timeout: float) -> Sampled | Event | None:
        """Return the oldest item; None after timeout seconds, or at once when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self.closed, timeout)
            if self.closed or not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, Sampled):
                self._queries -= len(item.vectors)
            return item

    def close(self) -> int:
        """Refuse from now on, forget what is queued, and return how many queries that were."""
        with self._changed:
            forgotten, self._queries = self._queries, 0
            self.closed = True
            self._items.clear()
            self._changed.notify_all()
        return forgotten
