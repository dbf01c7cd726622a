"""QueryRing: the most recent queries with vectors, times and call numbers; texts only if the operator enables it."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Limit for the length of a stored text. Queries are shorter. The limit keeps long requests from using more memory.
CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class QueryWindow:
    """n queries, oldest first: vectors (n, d), Unix times (n,), call numbers (n,), texts (n,), None if not kept."""

    vectors: NDArray[np.float32]
    times: NDArray[np.float64]
    calls: NDArray[np.int64]
    texts: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.vectors)


class QueryRing:
    """A ring of `capacity` queries. Memory: capacity x d x 4 bytes and the texts. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._parts: deque[QueryWindow] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def extend(self, window: QueryWindow) -> None:
        """Add queries and drop the oldest. A window of at most `capacity` queries is not copied."""
        if not len(window):
            return
        self._parts.append(_last(window, self._capacity))
        self._size += len(self._parts[-1])
        while self._size - len(self._parts[0]) >= self._capacity:
            self._size -= len(self._parts.popleft())

    def window(self) -> QueryWindow | None:
        """Return the last `capacity` queries; None before the first."""
        if not self._parts:
            return None
        joined = QueryWindow(
            np.concatenate([part.vectors for part in self._parts]),
            np.concatenate([part.times for part in self._parts]),
            np.concatenate([part.calls for part in self._parts]),
            tuple(text for part in self._parts for text in part.texts),
        )
        self._parts.clear()
        self._parts.append(_last(joined, self._capacity))
        self._size = len(self._parts[0])
        return self._parts[0]


def _last(window: QueryWindow, n: int) -> QueryWindow:
    if len(window) <= n:
        return window
    # Copies, because a view would keep the dropped rows in memory.
    return QueryWindow(
        window.vectors[-n:].copy(), window.times[-n:].copy(), window.calls[-n:].copy(), window.texts[-n:]
    )
