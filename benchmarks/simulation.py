"""One replica in virtual time: the server's own lanes, its event loop, and its streams on the cores they share.

Which texts make a batch is decided by `embedship.serve.batching.priority_queue` itself, with a clock that is turned by
hand. Time is
core-seconds: whoever works at a moment shares the cores evenly, as threads do.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, partial
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedship.batches import BUDGET, padded_width
from embedship.serve.batching.priority_queue import PriorityQueue, QueuedText
from embedship.serve.telemetry.request_context import Priority

_DONE = 1e-12  # core-seconds that are rounding


class Events:
    """What happens when, in order; what is due at one moment happens in the order it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now

    def at(self, moment: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (moment, next(self._numbers), act))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._heap:
            self.now, _, act = heapq.heappop(self._heap)
            act()


class Costs(NamedTuple):
    """Core-seconds: of a request outside the model, half of them before it, of a batch, and of a padded token."""

    request: float
    batch: float
    token: float
    cores: int = 2
    streams: int = 2
    batch_tokens: int = BUDGET
    queue_texts: int = 4_096

    def of(self, works: Sequence[QueuedText[Request]]) -> float:
        width = padded_width(max(len(work.ids) for work in works))
        return self.batch + self.token * width * len(works)


class Outcome(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Request:
    """One text. `born` and `ended` in seconds; it ends once."""

    born: float
    length: int
    queued: float = 0.0
    ended: float = 0.0
    outcome: Outcome | None = None

    @property
    def cancelled(self) -> bool:
        return False  # these clients are patient

    def end(self, outcome: Outcome, now: float) -> None:
        assert self.outcome is None, f"a request that was {self.outcome} is {outcome}"
        self.outcome, self.ended = outcome, now


@dataclass(slots=True, eq=False)
class _Job:
    """Core-seconds left of it, and what follows."""

    left: float
    then: Callable[[], None]
    front: bool = field(default=False)


Ended = Callable[[Request], None]


class Replica:
    """A server: an event loop that takes requests in and answers them, and streams that compute batches."""

    def __init__(self, events: Events, costs: Costs, ended: Ended) -> None:
        self.inside: set[Request] = set()
        self.waited = 0.0  # seconds, summed: embedship_queue_seconds_sum
        self.alive = True
        self._events, self._costs, self._ended = events, costs, ended
        self._lanes: PriorityQueue[Request] = PriorityQueue(costs.batch_tokens, events.clock)
        self._front: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._since = 0.0
        self._alarm = 0  # the only one that counts

    def enter(self, request: Request) -> None:
        """Take it in, refuse it because the queue is full, or lose it because the node is dead: then it hangs there."""
        if self.alive and len(self.inside) >= self._costs.queue_texts:
            self._end(request, Outcome.REFUSED)
            return
        self.inside.add(request)
        if self.alive:
            self._loop(self._costs.request / 2, partial(self._queue, request))
        else:
            self._end(request, Outcome.LOST)

    def die(self) -> None:
        """All that it has is lost. Nobody is told, so that it stays `inside`: its clients wait."""
        self.alive = False
        self._alarm += 1
        for request in sorted(self.inside, key=lambda each: each.born):
            self._end(request, Outcome.LOST)

    def _end(self, request: Request, outcome: Outcome) -> None:
        request.end(outcome, self._events.now)
        self._ended(request)

    def _loop(self, seconds: float, then: Callable[[], None]) -> None:
        """Work of the event loop, which does one thing at a time."""
        self._front.append(_Job(seconds, then, front=True))
        if not any(job.front for job in self._running):
            self._settle()
            self._turn()

    def _queue(self, request: Request) -> None:
        request.queued = self._events.now
        self._lanes.put(Priority.INTERACTIVE, [QueuedText(request, 0, _ids(request.length))])

    def _turn(self) -> None:
        """Give idle threads what waits for them, and set the alarm for who is ready first."""
        if self._front and not any(job.front for job in self._running):
            self._running.append(self._front.popleft())
        while sum(not job.front for job in self._running) < self._costs.streams and (works := self._lanes.take()):
            self._compute(works)
        self._alarm += 1
        if self._running:
            soonest = max(0.0, min(job.left for job in self._running)) / self._speed()
            self._events.at(self._events.now + soonest, partial(self._ring, self._alarm))

    def _compute(self, works: list[QueuedText[Request]]) -> None:
        now = self._events.now
        self.waited += sum(now - work.owner.queued for work in works)
        self._running.append(_Job(self._costs.of(works), partial(self._computed, works)))

    def _computed(self, works: list[QueuedText[Request]]) -> None:
        """The answers of a batch leave together."""
        self._front.append(_Job(self._costs.request / 2 * len(works), partial(self._answer, works), front=True))

    def _answer(self, works: list[QueuedText[Request]]) -> None:
        for work in works:
            self.inside.discard(work.owner)
            self._end(work.owner, Outcome.ANSWERED)

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._settle()
        ready = [job for job in self._running if job.left <= _DONE]
        self._running = [job for job in self._running if job.left > _DONE]
        for job in ready:
            job.then()
        if self.alive:
            self._turn()

    def _settle(self) -> None:
        """Write down what was worked since the last time."""
        worked = (self._events.now - self._since) * self._speed() if self._running else 0.0
        for job in self._running:
            job.left -= worked
        self._since = self._events.now

    def _speed(self) -> float:
        return min(1.0, self._costs.cores / len(self._running))


@cache
def _ids(length: int) -> list[int]:
    return [0] * length


class Load(NamedTuple):
    """What became of the requests of so many seconds."""

    requests: list[Request]
    seconds: float

    @property
    def rate(self) -> float:
        """Good answers a second, of those that came while requests were sent, as the load client counts."""
        good = sum(r.outcome is Outcome.ANSWERED and r.ended <= self.seconds for r in self.requests)
        return good / self.seconds

    def count(self, outcome: Outcome) -> int:
        return sum(request.outcome is outcome for request in self.requests)

    def latencies(self, start: float = 0.0, end: float = float("inf")) -> npt.NDArray[np.float64]:
        """(n,) seconds, of those answered that were sent in a window."""
        took = [r.ended - r.born for r in self.requests if r.outcome is Outcome.ANSWERED and start <= r.born < end]
        return np.array(took, dtype=np.float64)

    def milliseconds(self, percentile: float, start: float = 0.0, end: float = float("inf")) -> float:
        took = self.latencies(start, end)
        return float(np.percentile(took, percentile)) * 1e3 if len(took) else float("nan")


def closed(costs: Costs, lengths: Sequence[int], connections: int, seconds: float) -> Load:
    """Connections that never pause, as `loadclient.closed`: each walks through the texts with its own stride."""
    events, sent = Events(), list[Request]()
    turns: dict[Request, int] = {}

    def send(turn: int) -> None:
        if events.now < seconds:
            sent.append(request := Request(events.now, lengths[turn % len(lengths)]))
            turns[request] = turn
            replica.enter(request)

    replica = Replica(events, costs, lambda request: send(turns.pop(request) + connections))
    for first in range(connections):
        events.at(0.0, partial(send, first))
    events.run()
    return Load(sent, seconds)


def opened(costs: Costs, lengths: Sequence[int], born: Sequence[float], seconds: float) -> Load:
    """Requests at given moments, whatever becomes of those before, as `loadclient.opened`."""
    events, sent = Events(), list[Request]()
    replica = Replica(events, costs, lambda request: None)
    for number, moment in enumerate(born):
        sent.append(request := Request(moment, lengths[number % len(lengths)]))
        events.at(moment, partial(replica.enter, request))
    events.run()
    return Load(sent, seconds)
