"""Scenarios for the simulated cluster: 10,000 queries per second, a lost node, and a load that triples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from autoscaling import Rule, autoscaled
from cluster import Span, bereft, bursts, steady
from simulation import Costs, Load, Outcome


class Sizes(NamedTuple):
    """Size of a simulation: virtual seconds and requests per second."""

    rate: float
    replicas: tuple[int, ...]
    seconds: float
    noticed: float  # time until Kubernetes notices a dead node (node-monitor-grace-period)
    before: float  # seconds before the loss, and again after it is noticed
    calm: float
    busy: float
    low: float
    high: float


FULL = Sizes(10_000.0, (10, 12, 15, 19, 24), 10.0, 40.0, 10.0, 60.0, 300.0, 900.0, 2_700.0)
QUICK = Sizes(1_000.0, (2, 3), 3.0, 2.0, 3.0, 15.0, 60.0, 500.0, 1_800.0)
WARM = 1.0  # seconds to omit, because queues fill first

Says = Callable[[str], None]


def played(costs: Costs, lengths: Sequence[int], sizes: Sizes, seed: int, says: Says) -> dict[str, Any]:
    says("replicas")
    replicas = _replicas(costs, lengths, sizes, seed)
    says("a lost node")
    loss = _loss(costs, lengths, sizes, seed)
    says("autoscaling")
    return {"replicas": replicas, "node_loss": loss, "autoscaling": _autoscaling(costs, lengths, sizes, seed)}


def _replicas(costs: Costs, lengths: Sequence[int], sizes: Sizes, seed: int) -> list[dict[str, Any]]:
    even = [Span(sizes.seconds, sizes.rate)]
    uneven = bursts(sizes.seconds, sizes.rate, 1.5, 1.0, seed)
    found = []
    for replicas in sizes.replicas:
        for stream, spans in (("Poisson", even), ("bursts of 1.5", uneven)):
            for choices in (1, 2):
                load = steady(costs, lengths, spans, replicas, choices=choices, seed=seed)
                found.append({"replicas": replicas, "stream": stream, "choices": choices} | _summary(load))
    return found


def _loss(costs: Costs, lengths: Sequence[int], sizes: Sizes, seed: int) -> list[dict[str, Any]]:
    """Simulate a node loss that Kubernetes notices, or a proxy's passive checks after one second."""
    replicas, found = sizes.replicas[-2], []
    for who, noticed in (("Kubernetes alone", sizes.noticed), ("a proxy, after 1 s", 1.0)):
        for choices in (1, 2):
            span = Span(2 * sizes.before + noticed, sizes.rate)
            load = bereft(
                costs,
                lengths,
                span,
                replicas,
                lost=sizes.before,
                noticed=noticed,
                replaced=noticed + Rule().start,
                choices=choices,
                seed=seed,
            )
            lost = load.count(Outcome.LOST)
            found.append(
                {
                    "noticed_by": who,
                    "noticed_seconds": noticed,
                    "replicas": replicas,
                    "choices": choices,
                    "lost": lost,
                    "lost_share_until_noticed": lost / (sizes.rate * noticed),
                    "p99_ms_before": load.milliseconds(99, WARM, sizes.before),
                    "p99_ms_until_noticed": load.milliseconds(99, sizes.before, sizes.before + noticed),
                    "p99_ms_one_fewer": load.milliseconds(99, sizes.before + noticed),
                }
            )
    return found


def _autoscaling(costs: Costs, lengths: Sequence[int], sizes: Sizes, seed: int) -> list[dict[str, Any]]:
    spans = [Span(sizes.calm, sizes.low), Span(sizes.busy, sizes.high)]
    ways = {
        "as the chart is": Rule(),
        "pods start in 120 s": Rule(start=120.0),
        "4 replicas at least": Rule(least=4),
        "threshold 8": Rule(threshold=8.0),
    }
    return [{"way": way} | _scaling(costs, lengths, spans, rule, seed) for way, rule in ways.items()]


def _scaling(costs: Costs, lengths: Sequence[int], spans: list[Span], rule: Rule, seed: int) -> dict[str, Any]:
    load, sizes = (scaled := autoscaled(costs, lengths, spans, rule, seed=seed))
    step = spans[0].seconds
    more = [moment for moment, size in sizes if moment > step and size > rule.least]
    return _summary(load) | {
        "replicas_at_the_step": [size for moment, size in sizes if moment <= step][-1],
        "replicas_most": max(size for _, size in sizes),
        "seconds_to_first_start": more[0] - step if more else None,
        "seconds_above_100_ms": _slow_seconds(load, 0.1),
        "p99_ms_last_minute": load.milliseconds(99, load.seconds - 60),
        "replicas_mean": scaled.replica_seconds / load.seconds,
        "sizes": list({round(moment, 1): size for moment, size in sizes}.items()),
    }


def _slow_seconds(load: Load, bound: float) -> int:
    """Return the number of seconds in which a request was sent that waited longer than `bound` or was rejected."""
    return len({int(r.born) for r in load.requests if r.outcome is Outcome.REFUSED or r.ended - r.born > bound})


def _summary(load: Load) -> dict[str, Any]:
    """Return the summary. Percentiles omit the first second."""
    counts = {str(outcome): load.count(outcome) for outcome in Outcome}
    return {"requests": len(load.requests), **counts} | {
        f"p{p}_ms": round(load.milliseconds(p, WARM), 2) for p in (50, 99)
    }
