"""Fits the cost of a batch and a request to measured points, and compares the simulation with the other points.

Two figures come from runs of the engine. The other two, the cost of a request and of a batch outside the engine, are
fitted to the lighter loads. The heaviest closed loop is not used for the fit; it validates the simulation.
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
SECONDS, ROUGH = 6.0, 1.0  # virtual seconds per load


class Figures(NamedTuple):
    """Measured figures of one machine, with the client on the same cores."""

    engine_seconds: float  # one query of `tokens` tokens, one stream
    tokens: int
    tokens_per_second: float  # full batches, all streams
    closed: dict[int, float]  # connections -> good responses per second
    p50: dict[float, float]  # Poisson requests per second -> seconds from the scheduled time
    p99: dict[float, float]
    overload: tuple[float, float] | None = None  # requests offered and answered per second
    streams: int = 2

    @classmethod
    def kept(cls, load: dict[str, Any], encode: dict[str, Any]) -> Figures:
        """Return the figures of kept runs of load.py and encode.py."""
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
    """A measured point and the simulated one. `role`: fitted, validated or besides (shown only)."""

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
    """Return every measured point. The closed loop with most connections is the validated one."""

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
    """Return seconds per batch and per token by solving a + b * tokens for one query and for full batches."""
    full = BUDGET * figures.streams / figures.tokens_per_second
    token = (full - figures.engine_seconds) / (BUDGET - figures.tokens)
    return figures.engine_seconds - token * figures.tokens, token


def fitted(figures: Figures, given: Sequence[Point], evaluations: int = 60) -> Costs:
    """Minimise the squared log errors of the fitted points with Nelder-Mead, because a simulation has no gradient."""
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
