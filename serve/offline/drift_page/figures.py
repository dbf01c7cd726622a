"""Figures of a drift report."""

from __future__ import annotations

import numpy as np

from embedship.charts import axis
from embedship.charts.axis import Axis
from embedship.charts.plot import Plot, PlotDot, PlotLine, ReferenceLine, place_x, place_y, scatter
from embedship.monitor.drift.detector import ALPHA
from embedship.monitor.drift.offline import DriftComparison, Vectors
from embedship.monitor.drift.projection import PlaneProjection
from embedship.monitor.recall.history import RecallHistory
from embedship.monitor.state import SignalState
from embedship.serve.offline.drift_report import when

POINTS = 600  # maximum per group: more points would only cover each other


def projection(reference: Vectors, current: Vectors) -> Plot:
    """Plot both sets of vectors on the two principal components of the plotted sample."""
    samples = [_sample(rows) for rows in (reference, current)]
    fitted = PlaneProjection.fit(np.concatenate(samples))
    old, new = (_two_dimensional(fitted.apply(rows)) for rows in samples)
    title = f"two directions, {fitted.explained:.0%} of the variance"
    x, y = (axis.even(name, [*old[:, i], *new[:, i]]) for i, name in enumerate((title, "")))
    dots = [
        PlotDot(place_x(x, float(a)), place_y(y, float(b)), kind, "")
        for kind, points in (("now", new), ("then", old))
        for a, b in points
    ]
    return scatter("Queries of the reference and of the log", x, y, dots)


def distances(comparison: DriftComparison) -> Plot:
    """Plot the KS distance of every dimension, largest first, and the median distance without drift."""
    values = sorted(comparison.statistics, reverse=True)
    x = axis.even("dimensions, most different first", [0, len(values)], from_zero=True)
    noise = comparison.report.statistic_noise
    y = axis.even("KS distance D", [*values, noise], from_zero=True)
    line = [(place_x(x, i), place_y(y, value)) for i, value in enumerate(values, 1)]
    across = ReferenceLine(place_y(y, noise), f"median without drift {noise:.3f}")
    return scatter("KS distances", x, y, across=across, lines=[PlotLine("now", line)])


def pvalues(comparison: DriftComparison) -> Plot:
    """Plot sorted p-values. Without drift they are on the diagonal (Schweder and Spjotvoll, Biometrika 69, 1982)."""
    values = sorted(comparison.pvalues)
    x = axis.even("share of dimensions", [0, 1], from_zero=True)
    y = axis.even("p-value of the KS test", [0, 1], from_zero=True)
    line = [(place_x(x, i / len(values)), place_y(y, value)) for i, value in enumerate(values, 1)]
    even = [(place_x(x, share), place_y(y, share)) for share in (0, 1)]
    across = ReferenceLine(place_y(y, ALPHA), f"p = {ALPHA}")
    return scatter(
        "Sorted p-values",
        x,
        y,
        across=across,
        lines=[PlotLine("then", even), PlotLine("now", line)],
    )


def blocks(comparison: DriftComparison) -> Plot | None:
    """Plot the mean shift of each time block, and the limit for one block; None without time blocks."""
    if not comparison.blocks:
        return None
    x = _time([each.start for each in comparison.blocks] + [comparison.blocks[-1].end])
    threshold = max(each.threshold for each in comparison.blocks)
    known = [each for each in comparison.blocks if each.state is not SignalState.UNKNOWN]
    y = axis.even("mean shift (1: no drift)", [*(each.score for each in known), threshold], from_zero=True)
    dots = [
        PlotDot(
            place_x(x, (each.start + each.end) / 2),
            place_y(y, each.score),
            "alarm" if each.state is SignalState.WARN else "other",
            f"{when(each.start)} to {when(each.end)}: {each.score:.2f}, effect {each.effect:.3f}, "
            f"{each.queries:,} queries, {each.state}",
        )
        for each in known
    ]
    line = PlotLine("front", [(dot.x, dot.y) for dot in dots])
    return scatter(
        "Mean shift over time",
        x,
        y,
        dots,
        across=ReferenceLine(place_y(y, threshold), f"limit {threshold:.2f}"),
        lines=[line],
    )


def recall(history: RecallHistory, timed: bool) -> Plot:
    """Plot the mean recall of every 100 queries with its interval, and the alarms."""
    x = _time([each.at for each in history.stretches]) if timed else _numbers([each.at for each in history.stretches])
    y = axis.even(
        "recall@10 of 100 queries", [history.baseline, *(v for s in history.stretches for v in (s.lower, s.upper))]
    )
    dots = [
        PlotDot(
            place_x(x, each.at),
            place_y(y, each.mean),
            "alarm" if any(before < alarm <= each.at for alarm in history.alarms) else "other",
            f"{_position(each.at, timed)}: {each.mean:.3f} ({each.lower:.3f} to {each.upper:.3f})",
            place_y(y, each.lower),
        )
        for before, each in zip([-np.inf, *(s.at for s in history.stretches)], history.stretches, strict=False)
    ]
    across = ReferenceLine(place_y(y, history.baseline), f"baseline {history.baseline:.3f}")
    return scatter("Recall over time", x, y, dots, across=across)


def _position(at: float, timed: bool) -> str:
    return when(at) if timed else f"query {at:,.0f}"


def _sample(rows: Vectors) -> Vectors:
    return rows if len(rows) <= POINTS else rows[np.random.default_rng(0).permutation(len(rows))[:POINTS]]


def _two_dimensional(points: Vectors) -> Vectors:
    return points if points.shape[1] == 2 else np.pad(points, ((0, 0), (0, 1)))


def _time(seconds: list[float]) -> Axis:
    return axis.moments("time, UTC", seconds)


def _numbers(numbers: list[float]) -> Axis:
    return axis.even("queries", numbers, from_zero=True)
