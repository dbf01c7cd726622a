"""benchmarks/scale.py: the simulation loses no request and agrees with queueing theory."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # its scripts import each other by file name

import autoscaling  # noqa: E402
import cluster  # noqa: E402
import loadclient  # noqa: E402
import scale  # noqa: E402
import scale_fit  # noqa: E402
import simulation  # noqa: E402
from cluster import Span  # noqa: E402
from simulation import Costs, Load, Outcome  # noqa: E402

LENGTHS = [7, 16, 9, 13, 30, 11]
COSTS = Costs(request=0.3e-3, batch=3e-3, token=80e-6)
SLOW = Costs(request=3e-3, batch=30e-3, token=0.8e-3)  # ten times slower, so ten times fewer requests to simulate
SMALL = COSTS._replace(queue_texts=40)
SERVICE = 0.01
ALONE = Costs(request=0.0, batch=SERVICE, token=0.0, cores=1, streams=1, batch_tokens=1)  # one text per batch


def ends(load: Load) -> list[tuple[float, float, Outcome | None]]:
    return [(request.born, request.ended, request.outcome) for request in load.requests]


def overloaded(seed: int = 0) -> Load:
    """Load of twice the capacity of three replicas, one of which dies."""
    span = Span(4.0, 6_000.0)
    return cluster.bereft(SMALL, LENGTHS, span, 3, lost=1.0, noticed=1.0, replaced=2.0, choices=2, seed=seed)


def test_every_arrival_is_answered_refused_or_lost_once() -> None:
    """`Request.end` raises on a second end."""
    load = overloaded()
    assert len(load.requests) == len(list(cluster.arrivals([Span(4.0, 6_000.0)], 0)))
    assert all(load.count(outcome) > 0 for outcome in Outcome)
    assert sum(load.count(outcome) for outcome in Outcome) == len(load.requests)
    assert all(request.ended >= request.born for request in load.requests)


def test_a_lost_node_loses_what_it_had_and_what_came_until_it_was_noticed() -> None:
    span = Span(6.0, 900.0)
    load = cluster.bereft(COSTS, LENGTHS, span, 3, lost=2.0, noticed=2.0, replaced=3.0)
    lost = [request.born for request in load.requests if request.outcome is Outcome.LOST]
    assert len(lost) == pytest.approx(900 * 2 / 3, rel=0.15)
    assert 1.9 < min(lost) < 2.1
    assert 3.9 < max(lost) <= 4.0


def test_the_seed_decides() -> None:
    assert ends(overloaded(1)) == ends(overloaded(1))
    assert ends(overloaded(1)) != ends(overloaded(2))
    assert loadclient.poisson(50.0, 10.0, 3) == loadclient.poisson(50.0, 10.0, 3)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_one_stream_with_batches_of_one_is_m_d_1(utilisation: float) -> None:
    """Mean wait of M/D/1: rho s / 2 (1 - rho), Pollaczek and Khinchine."""
    born = loadclient.poisson(utilisation / SERVICE, 600.0, seed=4)
    load = simulation.opened(ALONE, [1], born, 600.0)
    waited = load.latencies().mean() - SERVICE
    assert waited == pytest.approx(utilisation * SERVICE / (2 * (1 - utilisation)), rel=0.07)


def test_replicas_drawn_at_random_are_each_m_d_1_and_the_emptier_of_two_waits_less() -> None:
    spans = [Span(150.0, 4 * 0.6 / SERVICE)]
    waited = {
        choices: cluster.steady(ALONE, [1], spans, 4, choices=choices).latencies().mean() - SERVICE
        for choices in (1, 2)
    }
    assert waited[1] == pytest.approx(0.6 * SERVICE / (2 * 0.4), rel=0.07)
    assert waited[2] < waited[1] / 2


def test_streams_that_share_a_core_are_no_faster_than_one() -> None:
    """With one core each it is twice as fast, because processor sharing conserves work."""
    seconds = 20.0
    one = simulation.closed(ALONE._replace(streams=2, cores=1), [1], 8, seconds).rate
    two = simulation.closed(ALONE._replace(streams=2, cores=2), [1], 8, seconds).rate
    assert one == pytest.approx(1 / SERVICE, rel=0.01)
    assert two == pytest.approx(2 / SERVICE, rel=0.01)


def test_bursts_keep_the_rate() -> None:
    spans = cluster.bursts(20_000.0, 100.0, 2.0, 1.0, seed=0)
    sent = sum(span.seconds * span.rate for span in spans)
    assert sum(span.seconds for span in spans) == pytest.approx(20_000.0)
    assert sent == pytest.approx(100.0 * 20_000.0, rel=0.03)
    assert {round(span.rate, 1) for span in spans} == {200.0, 66.7}


def test_more_replicas_come_for_a_queue_and_go_when_it_is_gone() -> None:
    rule = autoscaling.Rule(down=60.0, most=4)
    spans = [Span(60.0, 30.0), Span(90.0, 240.0), Span(300.0, 10.0)]
    load, sizes = autoscaling.autoscaled(SLOW, LENGTHS, spans, rule)
    grown = [moment for moment, size in sizes if size > rule.least]
    assert 60.0 < grown[0] <= 60.0 + 2 * rule.sync
    assert max(size for _, size in sizes) == rule.most
    assert sizes[-1][1] == rule.least, "and down again"
    shrunk = [moment for (_, before), (moment, after) in pairwise(sizes) if after < before]
    assert shrunk[0] > 150.0 + rule.down - rule.sync
    assert load.count(Outcome.ANSWERED) + load.count(Outcome.REFUSED) == len(load.requests)


def test_the_queue_as_prometheus_sees_it() -> None:
    """Little's law: at a steady load, waiting seconds per second equal the mean number of waiting requests."""
    events = simulation.Events()
    replicas = cluster.Cluster(events, SLOW, 2)
    replicas.feed(cluster.arrivals([Span(240.0, 120.0)], 0), LENGTHS)
    scaler = autoscaling.Autoscaler(events, replicas, autoscaling.Rule(least=2, most=2), 240.0)
    seen: list[float] = []
    events.schedule(239.0, lambda: seen.append(scaler.waiting()))
    events.run()
    waited = sum(replica.waited for replica in replicas.ready) / 240.0
    assert seen == [pytest.approx(waited, rel=0.1)]


def test_the_fit_finds_the_costs_that_made_the_points() -> None:
    true = scale_fit.Costs(0.35e-3, 2.9e-3, 75e-6)
    full = scale_fit.BUDGET * 2 / (true.token * scale_fit.BUDGET + 0.4e-3)
    closed = {n: simulation.closed(true, LENGTHS, n, 2.0).rate for n in (1, 16, 64)}
    born = loadclient.poisson(500.0, 2.0, 0)
    p50 = {500.0: simulation.opened(true, LENGTHS, born, 2.0).milliseconds(50) / 1e3}
    figures = scale_fit.Figures(0.4e-3 + 16 * true.token, 16, full, closed, p50, p99={})
    points = scale_fit.points(figures, LENGTHS, 2.0)
    found = scale_fit.fitted(figures, points)
    assert found.token == pytest.approx(true.token, rel=1e-6)
    assert found.request == pytest.approx(true.request, rel=0.1)
    assert found.batch == pytest.approx(true.batch, rel=0.1)
    assert [each.role for each in scale_fit.checked(points, found)] == ["fitted", "fitted", "validated", "fitted"]


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """The run whose figures docs/scale.md uses."""
    page = (BENCHMARKS.parent / "docs" / "scale.md").read_text()
    (name,) = re.findall(r"results/(scale-\d[\w.-]+\.json)", page)
    return json.loads((BENCHMARKS / "results" / name).read_text())


def test_the_kept_costs_predict_the_point_that_they_were_not_fitted_to(kept: dict[str, Any]) -> None:
    figures, lengths, _ = scale._kept()
    points = scale_fit.points(figures, lengths)
    (validated,) = (p for p in scale_fit.checked(points, Costs(**kept["costs"])) if p.role == "validated")
    assert validated.name == "64 connections, q/s"
    assert validated.predicted == pytest.approx(kept["validation"]["predicted"], rel=0.02)
    assert abs(validated.error) <= scale_fit.BOUND


def test_kept_figures_are_finite(kept: dict[str, Any]) -> None:
    numbers = [value for row in kept["replicas"] for value in row.values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()
