"""Simulates the chart's KEDA autoscaling in virtual time, with the rules of Prometheus, KEDA and its HPA."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster import Cluster, Span, arrivals
from simulation import Costs, Events, Load, Replica


class Rule(NamedTuple):
    """Autoscaling parameters of the chart and Kubernetes' defaults. Times in seconds. `start` is assumed."""

    threshold: float = 2.0  # autoscaling.keda.waitingRequests
    least: int = 2
    most: int = 8
    scrape: float = 15.0  # metrics.serviceMonitor.interval
    window: float = 120.0  # range of rate() in the ScaledObject's query
    sync: float = 15.0  # --horizontal-pod-autoscaler-sync-period
    tolerance: float = 0.1  # --horizontal-pod-autoscaler-tolerance
    down: float = 300.0  # autoscaling.downSeconds
    start: float = 20.0  # from the decision to the first request, on a node with free capacity and the image


class Autoscaler:
    """Autoscaler: scrapes the queue seconds and scales replicas by sum(rate(embedship_queue_seconds_sum))."""

    def __init__(self, events: Events, cluster: Cluster, rule: Rule, seconds: float) -> None:
        self._events, self._cluster, self._rule, self._seconds = events, cluster, rule, seconds
        self._samples: dict[Replica, deque[tuple[float, float]]] = {}
        self._wanted: deque[tuple[float, int]] = deque()
        events.schedule(0.0, self._scrape)
        events.schedule(rule.sync, self._sync)

    def _scrape(self) -> None:
        now = self._events.now
        for replica in self._cluster.ready:
            if replica.alive:
                self._samples.setdefault(replica, deque()).append((now, replica.waited))
        self._again(self._rule.scrape, self._scrape)

    def waiting(self) -> float:
        """Return the mean number of waiting requests as rate() does: a new series is extrapolated by one interval."""
        rule, found = self._rule, 0.0
        for samples in self._samples.values():
            while samples and samples[0][0] <= self._events.now - rule.window:
                samples.popleft()
            if len(samples) > 1:
                sampled = samples[-1][0] - samples[0][0]
                rise = samples[-1][1] - samples[0][1]
                found += rise / sampled * min(rule.window, sampled + rule.scrape) / rule.window
        return found

    def _sync(self) -> None:
        self._scale(self._stabilised(self._desired()))
        self._again(self._rule.sync, self._sync)

    def _desired(self) -> int:
        """Return the HPA's replicas for an AverageValue. One step adds at most four pods or doubles their number."""
        size, load = self._cluster.size, self.waiting() / self._rule.threshold
        if abs(load / size - 1) <= self._rule.tolerance:
            return size
        return min(max(math.ceil(load), self._rule.least), self._rule.most, max(size + 4, size * 2))

    def _stabilised(self, desired: int) -> int:
        """Return at least the highest recommendation of the last `down` seconds."""
        now = self._events.now
        self._wanted.append((now, desired))
        while self._wanted[0][0] < now - self._rule.down:
            self._wanted.popleft()
        most = max(wanted for _, wanted in self._wanted)
        return max(desired, min(self._cluster.size, most))

    def _scale(self, size: int) -> None:
        for _ in range(size - self._cluster.size):
            self._cluster.start(self._rule.start)
        for _ in range(self._cluster.size - size):
            if len(self._cluster.ready) > 1:
                self._cluster.drain()

    def _again(self, seconds: float, act: Callable[[], None]) -> None:
        if self._events.now + seconds <= self._seconds:
            self._events.schedule(self._events.now + seconds, act)


class Scaled(NamedTuple):
    load: Load
    sizes: list[tuple[float, int]]

    @property
    def replica_seconds(self) -> float:
        """Return the replica time used until the last request arrived."""
        ends = [moment for moment, _ in self.sizes[1:]] + [self.load.seconds]
        return sum(
            (min(end, self.load.seconds) - began) * size for (began, size), end in zip(self.sizes, ends, strict=True)
        )


def autoscaled(
    costs: Costs, lengths: Sequence[int], spans: Sequence[Span], rule: Rule, *, choices: int = 1, seed: int = 0
) -> Scaled:
    """Run the simulation from the minimum number of replicas."""
    events, seconds = Events(), sum(span.seconds for span in spans)
    cluster = Cluster(events, costs, rule.least, choices=choices, seed=seed)
    cluster.feed(arrivals(spans, seed), lengths)
    Autoscaler(events, cluster, rule, seconds)
    events.run()
    return Scaled(Load(cluster.requests, seconds), cluster.sizes)
