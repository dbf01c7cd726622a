"""Simulates one replica in virtual time: the server's own queue, its event loop, and its streams on shared cores.

`embedship.serve.batching.priority_queue` itself forms the batches, with a simulated clock. Work is measured in
core-seconds: all active tasks share the cores evenly, as threads do.
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

_DONE = 1e-12  # core-seconds below this are rounding errors


class Events:
    """Event queue: runs events in time order. Events at the same time run in the order of their scheduling."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now

    def schedule(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time, next(self._numbers), action))

    def run(self) -> None:
        """Run until no event is left."""
        while self._heap:
            self.now, _, action = heapq.heappop(self._heap)
            action()


class Costs(NamedTuple):
    """Costs in core-seconds: per request outside the model (half before it, half after), batch and padded token."""

    request: float
    batch: float
    token: float
    cores: int = 2
    streams: int = 2
    batch_tokens: int = BUDGET
    queue_texts: int = 4_096

    def batch_core_seconds(self, works: Sequence[QueuedText[Request]]) -> float:
        width = padded_width(max(len(work.ids) for work in works))
        return self.batch + self.token * width * len(works)


class Outcome(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"
    LOST = "lost"


@dataclass(slots=True, eq=False)
class Request:
    """One text. `born` and `ended` in seconds. It ends once."""

    born: float
    length: int
    queued: float = 0.0
    ended: float = 0.0
    outcome: Outcome | None = None

    @property
    def cancelled(self) -> bool:
        return False  # simulated clients never disconnect

    def end(self, outcome: Outcome, now: float) -> None:
        assert self.outcome is None, f"a request that was {self.outcome} is {outcome}"
        self.outcome, self.ended = outcome, now


@dataclass(slots=True, eq=False)
class _Job:
    """Work in progress: the remaining core-seconds and the callback."""

    left: float
    callback: Callable[[], None]
    front: bool = field(default=False)


Ended = Callable[[Request], None]


class Replica:
    """Simulated server: an event loop that accepts and answers requests, and streams that compute batches."""

    def __init__(self, events: Events, costs: Costs, ended: Ended) -> None:
        self.inside: set[Request] = set()
        self.waited = 0.0  # seconds, summed: embedship_queue_seconds_sum
        self.alive = True
        self._events, self._costs, self._ended = events, costs, ended
        self._lanes: PriorityQueue[Request] = PriorityQueue(costs.batch_tokens, events.clock)
        self._front: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._since = 0.0
        self._alarm = 0  # number of the latest alarm; older ones are ignored

    def enter(self, request: Request) -> None:
        """Accept a request, reject it if the queue is full, or lose it if the node is dead; a lost request hangs."""
        if self.alive and len(self.inside) >= self._costs.queue_texts:
            self._end(request, Outcome.REFUSED)
            return
        self.inside.add(request)
        if self.alive:
            self._loop(self._costs.request / 2, partial(self._queue, request))
        else:
            self._end(request, Outcome.LOST)

    def die(self) -> None:
        """Lose all current requests. Clients are not informed and keep waiting, so the requests stay `inside`."""
        self.alive = False
        self._alarm += 1
        for request in sorted(self.inside, key=lambda each: each.born):
            self._end(request, Outcome.LOST)

    def _end(self, request: Request, outcome: Outcome) -> None:
        request.end(outcome, self._events.now)
        self._ended(request)

    def _loop(self, seconds: float, callback: Callable[[], None]) -> None:
        """Queue work for the event loop, which runs one task at a time."""
        self._front.append(_Job(seconds, callback, front=True))
        if not any(job.front for job in self._running):
            self._settle()
            self._turn()

    def _queue(self, request: Request) -> None:
        request.queued = self._events.now
        self._lanes.put(Priority.INTERACTIVE, [QueuedText(request, 0, _ids(request.length))])

    def _turn(self) -> None:
        """Assign waiting work to idle threads and set the alarm for the earliest completion."""
        if self._front and not any(job.front for job in self._running):
            self._running.append(self._front.popleft())
        while sum(not job.front for job in self._running) < self._costs.streams and (works := self._lanes.take()):
            self._compute(works)
        self._alarm += 1
        if self._running:
            soonest = max(0.0, min(job.left for job in self._running)) / self._speed()
            self._events.schedule(self._events.now + soonest, partial(self._ring, self._alarm))

    def _compute(self, works: list[QueuedText[Request]]) -> None:
        now = self._events.now
        self.waited += sum(now - work.request.queued for work in works)
        self._running.append(_Job(self._costs.batch_core_seconds(works), partial(self._computed, works)))

    def _computed(self, works: list[QueuedText[Request]]) -> None:
        """Finish a batch. All its responses are sent together."""
        self._front.append(_Job(self._costs.request / 2 * len(works), partial(self._answer, works), front=True))

    def _answer(self, works: list[QueuedText[Request]]) -> None:
        for work in works:
            self.inside.discard(work.request)
            self._end(work.request, Outcome.ANSWERED)

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._settle()
        ready = [job for job in self._running if job.left <= _DONE]
        self._running = [job for job in self._running if job.left > _DONE]
        for job in ready:
            job.callback()
        if self.alive:
            self._turn()

    def _settle(self) -> None:
        """Account for the work done since the last call."""
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
    """Results of the requests of a number of seconds."""

    requests: list[Request]
    seconds: float

    @property
    def rate(self) -> float:
        """Return good responses per second while requests were sent, as the load client counts."""
        good = sum(r.outcome is Outcome.ANSWERED and r.ended <= self.seconds for r in self.requests)
        return good / self.seconds

    def count(self, outcome: Outcome) -> int:
        return sum(request.outcome is outcome for request in self.requests)

    def latencies(self, start: float = 0.0, end: float = float("inf")) -> npt.NDArray[np.float64]:
        """Return latencies (n,) in seconds of answered requests that were sent in a time window."""
        took = [r.ended - r.born for r in self.requests if r.outcome is Outcome.ANSWERED and start <= r.born < end]
        return np.array(took, dtype=np.float64)

    def milliseconds(self, percentile: float, start: float = 0.0, end: float = float("inf")) -> float:
        took = self.latencies(start, end)
        return float(np.percentile(took, percentile)) * 1e3 if len(took) else float("nan")


def closed(costs: Costs, lengths: Sequence[int], connections: int, seconds: float) -> Load:
    """Run a closed loop as `loadclient.closed`. Each connection goes through the texts with its own stride."""
    events, sent = Events(), list[Request]()
    turns: dict[Request, int] = {}

    def send(turn: int) -> None:
        if events.now < seconds:
            sent.append(request := Request(events.now, lengths[turn % len(lengths)]))
            turns[request] = turn
            replica.enter(request)

    replica = Replica(events, costs, lambda request: send(turns.pop(request) + connections))
    for first in range(connections):
        events.schedule(0.0, partial(send, first))
    events.run()
    return Load(sent, seconds)


def opened(costs: Costs, lengths: Sequence[int], born: Sequence[float], seconds: float) -> Load:
    """Run an open loop as `loadclient.opened`: requests at given times, independent of earlier responses."""
    events, sent = Events(), list[Request]()
    replica = Replica(events, costs, lambda request: None)
    for number, time in enumerate(born):
        sent.append(request := Request(time, lengths[number % len(lengths)]))
        events.schedule(time, partial(replica.enter, request))
    events.run()
    return Load(sent, seconds)
