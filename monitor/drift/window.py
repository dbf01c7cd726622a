"""The last queries, as the monitor keeps them: vectors, when, in which call; texts only where that was asked for."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of a text that is kept: a query is shorter, and memory must not depend on what is sent.
CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class QueryWindow:
    """n queries, oldest first: vectors (n, d), Unix times (n,), call numbers (n,), texts (n,), None where not kept."""

    vectors: NDArray[np.float32]
    times: NDArray[np.float64]
    calls: NDArray[np.int64]
    texts: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.vectors)


class QueryRing:
    """A ring of `capacity` queries: memory is capacity x d x 4 bytes, and the texts. Not safe for several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._parts: deque[QueryWindow] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def extend(self, window: QueryWindow) -> None:
        """Add queries; the oldest leave. The arrays of a window that fits are kept as they are, not copied."""
        if not len(window):
            return
        self._parts.append(_last(window, self._capacity))
        self._size += len(self._parts[-1])
        while self._size - len(self._parts[0]) >= self._capacity:
            self._size -= len(self._parts.popleft())

    def window(self) -> QueryWindow | None:
        """The last `capacity` queries; None before the first."""
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
    # Copies: a view would hold what it leaves out in memory.
    return QueryWindow(
        window.vectors[-n:].copy(), window.times[-n:].copy(), window.calls[-n:].copy(), window.texts[-n:]
    )
