"""Simulates replicas of a Service in virtual time: steady and bursty arrivals, and a lost node."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from loadclient import poisson
from simulation import Costs, Events, Load, Replica, Request


class Span(NamedTuple):
    """Span: a rate in requests per second and a duration in seconds."""

    seconds: float
    rate: float


def arrivals(spans: Sequence[Span], seed: int) -> Iterator[float]:
    """Return the ascending arrival times of a Poisson process whose rate changes per span."""
    began = 0.0
    for number, span in enumerate(spans):
        yield from (began + moment for moment in poisson(span.rate, span.seconds, seed * 1_000 + number))
        began += span.seconds


def bursts(seconds: float, rate: float, peak: float, mean: float, seed: int) -> list[Span]:
    """Return alternating spans: `peak` times the rate for a quarter of the time, and a lower rate otherwise.

    A span lasts `mean` seconds on average. With Poisson arrivals this is a Markov-modulated Poisson process with the
    long-run rate `rate`.
    """
    generator, spans, left, high = np.random.default_rng(seed), [], seconds, False
    low = (1 - peak / 4) / (3 / 4)
    while left > 0:
        length = min(left, float(generator.exponential(mean / 2 if high else mean * 3 / 2)))
        spans.append(Span(length, rate * (peak if high else low)))
        left, high = left - length, not high
    return spans


class Cluster:
    """Sends each request to a random ready replica, or to the emptier of `choices` random ones. No retries."""

    def __init__(self, events: Events, costs: Costs, replicas: int, *, choices: int = 1, seed: int = 0) -> None:
        self.ready: list[Replica] = []
        self.starting = 0
        self.requests: list[Request] = []
        self.sizes: list[tuple[float, int]] = []  # (seconds, number of paid replicas)
        self._events, self._costs, self._choices = events, costs, choices
        self._random = random.Random(seed)
        for _ in range(replicas):
            self._add()

    @property
    def size(self) -> int:
        return len(self.ready) + self.starting

    def feed(self, moments: Iterator[float], lengths: Sequence[int]) -> None:
        """Schedule requests at these times; the texts are used in turn."""
        if (moment := next(moments, None)) is not None:
            self._events.schedule(moment, partial(self._arrive, moments, lengths))

    def start(self, seconds: float) -> None:
        """Start a pod that accepts requests after `seconds`."""
        self.starting += 1
        self._note()
        self._events.schedule(self._events.now + seconds, self._started)

    def drain(self) -> None:
        """Drain the newest replica: it gets no new requests and finishes its current ones."""
        self.ready.pop()
        self._note()

    def lose(self, noticed: float, replaced: float) -> None:
        """Kill the oldest replica. Requests still go to it until the failure is noticed. Times in seconds from now."""
        lost = self.ready[0]
        lost.die()
        self._events.schedule(self._events.now + noticed, partial(self.ready.remove, lost))
        self._events.schedule(self._events.now + replaced, self._add)

    def _arrive(self, moments: Iterator[float], lengths: Sequence[int]) -> None:
        request = Request(self._events.now, lengths[len(self.requests) % len(lengths)])
        self.requests.append(request)
        drawn = [self.ready[self._random.randrange(len(self.ready))] for _ in range(self._choices)]
        min(drawn, key=lambda replica: len(replica.inside)).enter(request)
        self.feed(moments, lengths)

    def _add(self) -> None:
        self.ready.append(Replica(self._events, self._costs, lambda request: None))
        self._note()

    def _started(self) -> None:
        self.starting -= 1
        self._add()

    def _note(self) -> None:
        self.sizes.append((self._events.now, self.size))


def steady(
    costs: Costs, lengths: Sequence[int], spans: Sequence[Span], replicas: int, *, choices: int = 1, seed: int = 0
) -> Load:
    """Run a fixed number of replicas."""
    events = Events()
    cluster = Cluster(events, costs, replicas, choices=choices, seed=seed)
    cluster.feed(arrivals(spans, seed), lengths)
    events.run()
    return Load(cluster.requests, sum(span.seconds for span in spans))


def bereft(
    costs: Costs,
    lengths: Sequence[int],
    span: Span,
    replicas: int,
    *,
    lost: float,
    noticed: float,
    replaced: float,
    choices: int = 1,
    seed: int = 0,
) -> Load:
    """Run with a node loss: seconds from the start to the loss, and from the loss to its detection and replacement."""
    events = Events()
    cluster = Cluster(events, costs, replicas, choices=choices, seed=seed)
    cluster.feed(arrivals([span], seed), lengths)
    events.schedule(lost, partial(cluster.lose, noticed, replaced))
    events.run()
    return Load(cluster.requests, span.seconds)
