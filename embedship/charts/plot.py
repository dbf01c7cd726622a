"""Plots as data: pixels and texts, which draw.j2 draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from embedship.charts.axis import Axis
from embedship.charts.labels import LabelBox, PlacedLabel, place

WIDTH, HEIGHT = 400, 280
FRAME = LabelBox(70, 30, WIDTH - 14, HEIGHT - 44)
SMALL_WIDTH, SMALL_HEIGHT = 300, 140
SMALL_FRAME = LabelBox(34, 18, SMALL_WIDTH - 14, SMALL_HEIGHT - 38)
_CHARACTER = 6.2  # width of the small text of ticks


class AxisMark(NamedTuple):
    """A tick at pixel `at`. Its text is empty if there is no space for it."""

    at: float
    text: str


class PlotDot(NamedTuple):
    """A point of a plot."""

    x: float
    y: float
    kind: str  # the CSS class: chosen, other, or a code
    hover: str
    tail: float | None = None  # pixel of the lower end of a vertical line that begins at the point


class PlotBar(NamedTuple):
    """A bar of a plot."""

    x: float
    y: float
    width: float
    height: float
    hover: str


class PlotLine(NamedTuple):
    """A line through points."""

    kind: str  # the CSS class
    points: Sequence[tuple[float, float]]


class ReferenceLine(NamedTuple):
    """A straight line through the frame, and its label."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of `width` x `height` pixels. All positions are in pixels."""

    name: str
    width: int = WIDTH
    height: int = HEIGHT
    frame: LabelBox = FRAME
    x_title: str
    y_title: str = ""
    x_marks: Sequence[AxisMark]
    y_marks: Sequence[AxisMark]
    dots: Sequence[PlotDot] = ()
    labels: Sequence[PlacedLabel] = ()
    bars: Sequence[PlotBar] = ()
    lines: Sequence[PlotLine] = ()
    across: ReferenceLine | None = None
    upright: ReferenceLine | None = None


def place_x(x: Axis, value: float) -> float:
    """Return the horizontal pixel of a value in the usual frame."""
    return x.place(value, FRAME.left, FRAME.right)


def place_y(y: Axis, value: float) -> float:
    """Return the vertical pixel of a value in the usual frame."""
    return y.place(value, FRAME.bottom, FRAME.top)


def scatter(
    name: str,
    x: Axis,
    y: Axis,
    dots: Sequence[PlotDot] = (),
    names: Sequence[str] | None = None,
    across: ReferenceLine | None = None,
    lines: Sequence[PlotLine] = (),
) -> Plot:
    """Return a plot in the usual frame. `dots`, `across` and `lines` are in its pixels. Empty names are not drawn."""
    labels = () if names is None else place([(dot.x, dot.y) for dot in dots], names, FRAME, _occupied(dots, across))
    return Plot(
        name=name,
        x_title=x.title,
        y_title=y.title,
        x_marks=thinned([AxisMark(place_x(x, tick.value), tick.text) for tick in x.ticks], FRAME.right),
        y_marks=[AxisMark(place_y(y, tick.value), tick.text) for tick in y.ticks],
        dots=dots,
        labels=labels,
        across=across,
        lines=lines,
    )


def _occupied(dots: Sequence[PlotDot], across: ReferenceLine | None) -> list[LabelBox]:
    """Return the rectangles of the dots' tails, and of the text above the right end of the line across."""
    tails = [LabelBox(dot.x - 4, dot.y, dot.x + 4, dot.tail + 2) for dot in dots if dot.tail is not None]
    if across is None:
        return tails
    return [*tails, LabelBox(FRAME.right - len(across.text) * _CHARACTER, across.at - 16, FRAME.right, across.at + 2)]


def thinned(marks: Sequence[AxisMark], right: float) -> list[AxisMark]:
    """Return the marks from right to left, without the texts that would touch the next one."""
    result: list[AxisMark] = []
    free = right + 40
    for mark in reversed(marks):
        half = len(mark.text) * _CHARACTER / 2
        fits = mark.at + half < free
        result.append(mark if fits else AxisMark(mark.at, ""))
        free = mark.at - half - 12 if fits else free
    return result
