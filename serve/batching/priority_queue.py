"""Priority queue: selects the texts of the next batch.

There are two lanes (interactive and bulk). A batch starts with the oldest text of a lane and is filled with texts of
similar length. There is no wait timer: a free stream takes the texts that are queued. While all streams are busy, texts
accumulate, so batches grow by themselves.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from embedship.batches import BatchShape, round_rows
from embedship.serve.telemetry.request_context import Priority

# A bulk batch runs after at most this many interactive batches in a row.
MAX_INTERACTIVE_STREAK = 4

# For this many seconds after an interactive request, bulk batches get 1 / SHRINK of the token budget, so that the next
# query waits less for a busy stream.
RECENT_SECONDS = 1.0
SHRINK = 4

# A lane with more texts than this drops the texts of cancelled requests on `put`. Streams also drop them, but not while
# all devices are down. Clients that time out and retry would then add texts without limit, because a cancelled request
# releases its permit.
PURGE_THRESHOLD = 1_000


class TextOwner(Protocol):
    """The request that a text belongs to."""

    @property
    def cancelled(self) -> bool:
        """Whether the request has ended, so that its texts need not be computed."""


RequestT = TypeVar("RequestT", bound=TextOwner)


@dataclass(slots=True, eq=False)
class QueuedText(Generic[RequestT]):
    """One text or pair in the queue: its token ids, and its row in the result of its request."""

    request: RequestT
    row: int
    ids: list[int]
    turn: int = 0  # the position where the second text of a pair begins
    dequeued: bool = field(default=False, init=False)  # it is in a batch, or was dropped


class PriorityQueue(Generic[RequestT]):
    """Queue with two lanes. Not thread-safe: the caller must hold a lock.

    Interactive texts have priority, but a bulk batch runs after at most MAX_INTERACTIVE_STREAK interactive batches.
    """

    def __init__(self, budget: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._queues: dict[Priority, _OrderedQueue[RequestT]] = {lane: _OrderedQueue() for lane in Priority}
        self._passed_over = 0
        self._last_interactive = float("-inf")

    def __len__(self) -> int:
        """Return the number of queued texts of requests that are not cancelled. O(n), so call it for scrapes only."""
        return sum(len(queue.present()) for queue in self._queues.values())

    def oldest(self) -> list[RequestT]:
        """Return the request of the oldest text of each lane that is not empty."""
        return [owner for queue in self._queues.values() if (owner := queue.first())]

    def put(self, lane: Priority, texts: Iterable[QueuedText[RequestT]]) -> None:
        if lane is Priority.INTERACTIVE:
            self._last_interactive = self._clock()
        self._queues[lane].put(texts)

    def take(self) -> list[QueuedText[RequestT]]:
        """Remove the next batch from the queue and return it, in no particular order; empty if no text is queued."""
        for lane in self._lane_order():
            if batch := self._queues[lane].take(self._lane_budget(lane)):
                self._count_streak(lane)
                return batch
        return []

    def _lane_order(self) -> tuple[Priority, Priority]:
        if self._passed_over >= MAX_INTERACTIVE_STREAK:
            return Priority.BULK, Priority.INTERACTIVE
        return Priority.INTERACTIVE, Priority.BULK

    def _count_streak(self, lane: Priority) -> None:
        bulk_waits = lane is Priority.INTERACTIVE and self._queues[Priority.BULK].size > 0
        self._passed_over = self._passed_over + 1 if bulk_waits else 0

    def _lane_budget(self, lane: Priority) -> int:
        busy = self._clock() - self._last_interactive < RECENT_SECONDS
        return self._budget // SHRINK if busy and lane is Priority.BULK else self._budget


class _OrderedQueue(Generic[RequestT]):
    """The texts of one lane, by arrival and by length. A text taken from one order is removed from the other later."""

    def __init__(self) -> None:
        self._arrivals: deque[QueuedText[RequestT]] = deque()
        self._by_length: dict[int, deque[QueuedText[RequestT]]] = {}
        self._lengths: list[int] = []  # the keys of `_by_length`, ascending
        self.size = 0  # queued texts, including those of cancelled requests until they are dropped
        self._purge_above = PURGE_THRESHOLD

    def present(self) -> list[QueuedText[RequestT]]:
        """Return the texts of requests that are not cancelled, in order of arrival."""
        return [text for text in self._arrivals if not text.dequeued and not text.request.cancelled]

    def first(self) -> RequestT | None:
        """Return the request of the oldest text. This drops nothing from the queue."""
        return next((text.request for text in self._arrivals if not text.dequeued and not text.request.cancelled), None)

    def put(self, texts: Iterable[QueuedText[RequestT]]) -> None:
        for text in texts:
            self._add(text)
        if self.size > self._purge_above:
            self._drop_cancelled()

    def _add(self, text: QueuedText[RequestT]) -> None:
        self._texts_of_length(len(text.ids)).append(text)
        self._arrivals.append(text)
        self.size += 1

    def _drop_cancelled(self) -> None:
        """Drop the texts of cancelled requests.

        This runs again when the queue has doubled, so that the cost per added text stays constant.
        """
        remaining = self.present()
        self._arrivals, self._by_length, self._lengths, self.size = deque(), {}, [], 0
        for text in remaining:
            self._add(text)
        self._purge_above = max(PURGE_THRESHOLD, 2 * self.size)

    def _put_back(self, text: QueuedText[RequestT]) -> None:
        """Undo `_pop` for a text. It is still in the order of arrival."""
        self._texts_of_length(len(text.ids)).appendleft(text)
        text.dequeued = False
        self.size += 1

    def _texts_of_length(self, length: int) -> deque[QueuedText[RequestT]]:
        if length not in self._by_length:
            self._by_length[length] = deque()
            insort(self._lengths, length)
        return self._by_length[length]

    def take(self, budget: int) -> list[QueuedText[RequestT]]:
        """Remove and return a batch: the oldest text, and those shorter or longer texts that add the least padding."""
        oldest = self._oldest()
        if oldest is None:
            return []
        split_at = bisect_left(self._lengths, len(oldest.ids))
        batch, shape = [self._pop(len(oldest.ids))], BatchShape(budget)
        shape.add(len(oldest.ids))
        shorter, longer = (
            self._lengths[: split_at + 1],
            self._lengths[:split_at:-1],
        )  # stacks with the closest length on top
        while (source := self._closer(shorter, longer, shape)) and shape.fits(source[-1]):
            batch.append(self._pop(source[-1]))
            shape.add(source[-1])
        keep = round_rows(len(batch))
        for text in reversed(batch[keep:]):
            self._put_back(text)
        return batch[:keep]

    def _closer(self, shorter: list[int], longer: list[int], shape: BatchShape) -> list[int]:
        """Return the stack whose top length adds the least padding; an empty stack if no texts are left."""
        for stack in (shorter, longer):
            while stack:
                self._drop_cancelled_first(stack[-1])
                if stack[-1] in self._by_length:
                    break
                stack.pop()
        if not shorter or not longer:
            return shorter or longer
        return shorter if shape.padding(shorter[-1]) <= shape.padding(longer[-1]) else longer

    def _oldest(self) -> QueuedText[RequestT] | None:
        while self._arrivals:
            text = self._arrivals[0]
            if not text.dequeued:
                self._drop_cancelled_first(len(text.ids))  # this may drop `text` itself, so `dequeued` is checked again
            if not text.dequeued:
                return text
            self._arrivals.popleft()
        return None

    def _drop_cancelled_first(self, length: int) -> None:
        """Drop cancelled texts at the front of the texts of this length, and the length itself if no text is left."""
        texts = self._by_length.get(length)
        while texts and texts[0].request.cancelled:
            self._pop(length)
        if texts is not None and not texts:
            del self._by_length[length]
            self._lengths.remove(length)

    def _pop(self, length: int) -> QueuedText[RequestT]:
        text = self._by_length[length].popleft()
        text.dequeued = True
        self.size -= 1
        return text
