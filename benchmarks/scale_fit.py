"""What a batch and a request cost, fitted to measured points, and what the simulation says about the others.

The engine's two figures come from runs of the engine. The two others, of a request and of a batch outside the engine,
are fitted to the lighter loads; the heaviest closed loop is left out, and is what the simulation is checked against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import simulation
from loadclient import poisson
from scipy.optimize import minimize
from simulation import Costs

from embedship.batches import BUDGET

BOUND = 0.10
SECONDS, ROUGH = 6.0, 1.0  # virtual, of one load


class Figures(NamedTuple):
    """What one machine was measured to do, the client on the same cores."""

    engine_seconds: float  # one query of `tokens` tokens, one stream
    tokens: int
    tokens_per_second: float  # full batches, all streams
    closed: dict[int, float]  # connections -> good answers a second
    p50: dict[float, float]  # Poisson requests a second -> seconds, from when each was due
    p99: dict[float, float]
    overload: tuple[float, float] | None = None  # offered, answered a second
    streams: int = 2

    @classmethod
    def kept(cls, load: dict[str, Any], encode: dict[str, Any]) -> Figures:
        """Of a kept run of load.py and one of encode.py."""
        light = [load["open_loop"][share] for share in ("0.5", "0.7")]
        over = load["open_loop"]["1.3"]
        return cls(
            load["idle"]["engine"]["median"] / 1e3,
            load["query"]["tokens"],
            encode["model_alone"]["median"],
            {int(n): row["requests_per_second"]["median"] for n, row in load["closed_loop"]["embedship"].items()},
            {row["offered_per_second"]: row["p50_ms"]["median"] / 1e3 for row in light},
            {row["offered_per_second"]: row["p99_ms"]["median"] / 1e3 for row in light},
            (over["offered_per_second"], over["requests_per_second"]["median"]),
            encode["threads"],
        )


class Point(NamedTuple):
    """A measured point and the simulated one. `role`: fitted, validated, or besides."""

    name: str
    measured: float
    predict: Callable[[Costs], float]
    role: str


class Checked(NamedTuple):
    name: str
    role: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def points(figures: Figures, lengths: Sequence[int], seconds: float = SECONDS) -> list[Point]:
    """Every measured point; one is validated, the closed loop with most connections."""

    def closed(connections: int) -> Callable[[Costs], float]:
        return lambda costs: simulation.closed(costs, lengths, connections, seconds).rate

    def quantile(rate: float, percentile: float) -> Callable[[Costs], float]:
        return lambda costs: opened(costs, rate).milliseconds(percentile)

    def opened(costs: Costs, rate: float) -> simulation.Load:
        return simulation.opened(costs, lengths, poisson(rate, seconds, 0), seconds)

    most = max(figures.closed)
    found = [
        Point(f"{n} connections, q/s", rate, closed(n), "validated" if n == most else "fitted")
        for n, rate in figures.closed.items()
    ]
    found += [Point(f"{r:,.0f} q/s, p50 ms", s * 1e3, quantile(r, 50), "fitted") for r, s in figures.p50.items()]
    found += [Point(f"{r:,.0f} q/s, p99 ms", s * 1e3, quantile(r, 99), "besides") for r, s in figures.p99.items()]
    if figures.overload:
        offered, answered = figures.overload
        found.append(
            Point(f"{offered:,.0f} q/s, answered", answered, lambda costs: opened(costs, offered).rate, "besides")
        )
    return found


def engine(figures: Figures) -> tuple[float, float]:
    """Seconds of a batch and of a token, from one query and from full batches: both lie on a + b * tokens."""
    full = BUDGET * figures.streams / figures.tokens_per_second
    token = (full - figures.engine_seconds) / (BUDGET - figures.tokens)
    return figures.engine_seconds - token * figures.tokens, token


def fitted(figures: Figures, given: Sequence[Point], evaluations: int = 60) -> Costs:
    """The least sum of squared log errors over the fitted points; Nelder-Mead, because a simulation has no gradient."""
    batch, token = engine(figures)
    used = [point for point in given if point.role == "fitted"]

    def costs(milliseconds: Sequence[float]) -> Costs:
        request, outside = np.exp(milliseconds) / 1e3  # positive
        return Costs(float(request), batch + float(outside), token, cores=figures.streams, streams=figures.streams)

    def loss(milliseconds: Sequence[float]) -> float:
        tried = costs(milliseconds)
        return sum(math.log(point.predict(tried) / point.measured) ** 2 for point in used)

    start = np.log([0.4, 2.5])
    found = minimize(loss, start, method="Nelder-Mead", options={"maxfev": evaluations, "xatol": 0.01, "fatol": 1e-5})
    return costs(found.x)


def checked(given: Sequence[Point], costs: Costs) -> list[Checked]:
    return [Checked(point.name, point.role, point.measured, point.predict(costs)) for point in given]
