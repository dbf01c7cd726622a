"""Which texts go into the next batch: two lanes, oldest work first, filled up with work of similar length. Pure.

No wait timer: a free stream takes what is there. Batches grow by themselves when the streams are busy.
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

# Bulk is served after this many interactive batches at the latest.
MAX_INTERACTIVE_STREAK = 4

# While queries come in, bulk batches are smaller, so that a query waits less for the stream it finds busy.
RECENT_SECONDS = 1.0
SHRINK = 4

# A lane that holds more looks for texts that nobody waits for any more. Streams drop them, too, but take nothing while
# all devices are down: then clients leave and come again, and only their permits are given back.
PURGE_THRESHOLD = 1_000


class TextOwner(Protocol):
    """The request that a text belongs to."""

    @property
    def cancelled(self) -> bool:
        """Nobody waits for it any more."""


RequestT = TypeVar("RequestT", bound=TextOwner)


@dataclass(slots=True, eq=False)
class QueuedText(Generic[RequestT]):
    """One text, or pair: its token ids, and its row in the answer of its request."""

    owner: RequestT
    row: int
    ids: list[int]
    turn: int = 0  # where the second text of a pair begins
    taken: bool = field(default=False, init=False)


class PriorityQueue(Generic[RequestT]):
    """Not thread-safe: whoever shares it holds a lock.

    Takes turns: interactive first, but bulk after at most PATIENCE interactive batches.
    """

    def __init__(self, budget: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._queues: dict[Priority, _OrderedQueue[RequestT]] = {lane: _OrderedQueue() for lane in Priority}
        self._passed_over = 0
        self._last_interactive = float("-inf")

    def __len__(self) -> int:
        """Texts that somebody waits for. Each is looked at: for scrapes, and not for every batch."""
        return sum(len(queue.present()) for queue in self._queues.values())

    def oldest(self) -> list[RequestT]:
        """Whose text has waited longest, of each lane where one waits."""
        return [owner for queue in self._queues.values() if (owner := queue.first())]

    def put(self, lane: Priority, works: Iterable[QueuedText[RequestT]]) -> None:
        if lane is Priority.INTERACTIVE:
            self._last_interactive = self._clock()
        self._queues[lane].put(works)

    def take(self) -> list[QueuedText[RequestT]]:
        """The next batch, in no particular order, as `plan` shapes batches; empty if none waits."""
        for lane in self._turn():
            if batch := self._queues[lane].take(self._budget_of(lane)):
                self._count_streak(lane)
                return batch
        return []

    def _turn(self) -> tuple[Priority, Priority]:
        if self._passed_over >= MAX_INTERACTIVE_STREAK:
            return Priority.BULK, Priority.INTERACTIVE
        return Priority.INTERACTIVE, Priority.BULK

    def _count_streak(self, lane: Priority) -> None:
        waits = lane is Priority.INTERACTIVE and self._queues[Priority.BULK].held > 0
        self._passed_over = self._passed_over + 1 if waits else 0

    def _budget_of(self, lane: Priority) -> int:
        busy = self._clock() - self._last_interactive < RECENT_SECONDS
        return self._budget // SHRINK if busy and lane is Priority.BULK else self._budget


class _OrderedQueue(Generic[RequestT]):
    """One lane, in order of arrival and by length. What one order gives away, the other forgets when it gets there."""

    def __init__(self) -> None:
        self._arrivals: deque[QueuedText[RequestT]] = deque()
        self._by_length: dict[int, deque[QueuedText[RequestT]]] = {}
        self._lengths: list[int] = []  # the keys of `_by_length`, ascending
        self.held = 0  # texts that wait, those of departed clients included until they are dropped
        self._crowd = PURGE_THRESHOLD

    def present(self) -> list[QueuedText[RequestT]]:
        """What somebody waits for, in order of arrival."""
        return [work for work in self._arrivals if not work.taken and not work.owner.cancelled]

    def first(self) -> RequestT | None:
        """The owner of the oldest work; nothing is dropped for the question."""
        return next((work.owner for work in self._arrivals if not work.taken and not work.owner.cancelled), None)

    def put(self, works: Iterable[QueuedText[RequestT]]) -> None:
        for work in works:
            self._add(work)
        if self.held > self._crowd:
            self._drop_gone()

    def _add(self, work: QueuedText[RequestT]) -> None:
        self._of_length(len(work.ids)).append(work)
        self._arrivals.append(work)
        self.held += 1

    def _drop_gone(self) -> None:
        """Not again before as many have come as stay now: no text costs more for the others that wait."""
        staying = self.present()
        self._arrivals, self._by_length, self._lengths, self.held = deque(), {}, [], 0
        for work in staying:
            self._add(work)
        self._crowd = max(PURGE_THRESHOLD, 2 * self.held)

    def _put_back(self, work: QueuedText[RequestT]) -> None:
        """Work that has just been popped: its place among the arrivals it still has."""
        self._of_length(len(work.ids)).appendleft(work)
        work.taken = False
        self.held += 1

    def _of_length(self, length: int) -> deque[QueuedText[RequestT]]:
        if length not in self._by_length:
            self._by_length[length] = deque()
            insort(self._lengths, length)
        return self._by_length[length]

    def take(self, budget: int) -> list[QueuedText[RequestT]]:
        """The oldest work, and with it what adds the least padding, shorter or longer, while it fits."""
        oldest = self._oldest()
        if oldest is None:
            return []
        lead = bisect_left(self._lengths, len(oldest.ids))
        batch, rectangle = [self._pop(len(oldest.ids))], BatchShape(budget)
        rectangle.add(len(oldest.ids))
        shorter, longer = self._lengths[: lead + 1], self._lengths[:lead:-1]  # stacks, the closest on top
        while (source := self._closer(shorter, longer, rectangle)) and rectangle.fits(source[-1]):
            batch.append(self._pop(source[-1]))
            rectangle.add(source[-1])
        keep = round_rows(len(batch))
        for work in reversed(batch[keep:]):
            self._put_back(work)
        return batch[:keep]

    def _closer(self, shorter: list[int], longer: list[int], rectangle: BatchShape) -> list[int]:
        """The stack whose top adds the least padding; an empty one when nothing waits any more."""
        for stack in (shorter, longer):
            while stack:
                self._drop_gone_ahead(stack[-1])
                if stack[-1] in self._by_length:
                    break
                stack.pop()
        if not shorter or not longer:
            return shorter or longer
        return shorter if rectangle.padding(shorter[-1]) <= rectangle.padding(longer[-1]) else longer

    def _oldest(self) -> QueuedText[RequestT] | None:
        while self._arrivals:
            work = self._arrivals[0]
            if not work.taken:
                self._drop_gone_ahead(len(work.ids))  # this one, too, where nobody waits for it
            if not work.taken:
                return work
            self._arrivals.popleft()
        return None

    def _drop_gone_ahead(self, length: int) -> None:
        """Drop what nobody waits for at the head of the work of this length, and the length where none is left."""
        works = self._by_length.get(length)
        while works and works[0].owner.cancelled:
            self._pop(length)
        if works is not None and not works:
            del self._by_length[length]
            self._lengths.remove(length)

    def _pop(self, length: int) -> QueuedText[RequestT]:
        work = self._by_length[length].popleft()
        work.taken = True
        self.held -= 1
        return work
