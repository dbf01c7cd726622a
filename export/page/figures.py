"""Figures as numbers: a plot holds pixels and words, and a template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from embedship.bundle import Manifest, Measured, Quality, Variant
from embedship.export.page import axis, words
from embedship.export.page.axis import Axis
from embedship.export.page.histogram import Histogram, nines
from embedship.export.page.labels import Box, Label, place

WIDTH, HEIGHT = 400, 280
_FRAME = Box(70, 30, WIDTH - 14, HEIGHT - 44)
_SMALL_WIDTH, _SMALL_HEIGHT = 300, 140
_SMALL_FRAME = Box(34, 18, _SMALL_WIDTH - 14, _SMALL_HEIGHT - 38)
_CHARACTER = 6.2  # width of the small text of ticks


class Mark(NamedTuple):
    """A tick at pixel `at`; its text is empty where there is no room for it."""

    at: float
    text: str


class Dot(NamedTuple):
    x: float
    y: float
    kind: str  # the CSS class: chosen, other, or a code
    hover: str
    tail: float | None = None  # pixel of the lower end of the line that hangs from it


class Bar(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    hover: str


class Rule(NamedTuple):
    """A straight line through the frame, and what it means."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """All in pixels of a drawing of `width` x `height`."""

    name: str
    width: int = WIDTH
    height: int = HEIGHT
    frame: Box = _FRAME
    x_title: str
    y_title: str = ""
    x_marks: Sequence[Mark]
    y_marks: Sequence[Mark]
    dots: Sequence[Dot] = ()
    labels: Sequence[Label] = ()
    bars: Sequence[Bar] = ()
    path: Sequence[tuple[float, float]] = ()
    across: Rule | None = None
    upright: Rule | None = None


def speed_against_cosine(manifest: Manifest) -> Plot:
    """Up is nearer to the checkpoint, right is faster; a line hangs down to the worst text."""
    timed = _timed(manifest)
    x = _speed_axis([speed for _, speed in timed])
    y = axis.cosines("mean cosine to the checkpoint", min(v.parity.minimum for v, _ in timed))
    dots = [
        Dot(
            _right(x, speed),
            _up(y, variant.parity.mean),
            _kind(manifest, variant),
            f"{variant.name}: {words.count(speed)} tokens/s, mean cosine {words.cosine(variant.parity.mean)}, "
            f"worst {words.cosine(variant.parity.minimum)} of {variant.parity.texts} texts",
            _up(y, variant.parity.minimum),
        )
        for variant, speed in timed
    ]
    return _scatter("Speed against cosine", x, y, dots, [variant.name for variant, _ in timed])


def speed_against_recall(manifest: Manifest, quality: Quality) -> Plot | None:
    """The same with recall@10 on the user's questions; none where no variant was searched with."""
    plain = words.plain_rows(quality)
    found = [(v, speed, plain[v.name].metrics["recall@10"]) for v, speed in _timed(manifest) if v.name in plain]
    if not found:
        return None
    checkpoint = plain["checkpoint"].metrics["recall@10"] if "checkpoint" in plain else None
    x = _speed_axis([speed for _, speed in _timed(manifest)])
    y = axis.even("recall@10", [recall for *_, recall in found] + ([] if checkpoint is None else [checkpoint]))
    dots = [
        Dot(
            _right(x, speed),
            _up(y, recall),
            _kind(manifest, variant),
            f"{variant.name}: {words.count(speed)} tokens/s, recall@10 {recall:.4f}, {quality.queries:,} queries",
        )
        for variant, speed, recall in found
    ]
    across = None if checkpoint is None else Rule(_up(y, checkpoint), f"checkpoint {checkpoint:.4f}")
    return _scatter("Speed against recall", x, y, dots, [variant.name for variant, *_ in found], across)


def recall_against_bytes(quality: Quality, variant: str) -> Plot | None:
    """A point for each dimension and code of one variant; none where fewer than two were measured."""
    rows = [row for row in quality.measured if row.variant == variant]
    if len(rows) < 2:
        return None
    best = frontier(rows)
    x = axis.doublings("bytes per vector (log scale)", [row.bytes_per_vector for row in rows])
    y = axis.even("recall@10", [row.metrics["recall@10"] for row in rows])
    dots = [
        Dot(
            _right(x, row.bytes_per_vector),
            _up(y, row.metrics["recall@10"]),
            code_class(row),
            f"{row.dimension} dimensions, {words.code(row)}: recall@10 {row.metrics['recall@10']:.4f}, "
            f"{row.bytes_per_vector:,} bytes a vector",
        )
        for row in rows
    ]
    names = [str(row.dimension) if row in best else "" for row in rows]
    line = [(dot.x, dot.y) for dot, row in zip(dots, rows, strict=True) if row in best]
    return _scatter("Recall against bytes per vector", x, y, dots, names, path=sorted(line))


def histogram(variant: Variant, found: Histogram, worst: float, floor: float | None) -> Plot:
    """How the texts' cosines to the checkpoint are spread; `worst` is the worst of all variants, for a common axis."""
    frame, x = _SMALL_FRAME, axis.cosines("cosine to the checkpoint", worst)
    tallest = max(found.counts)
    bars = []
    for (left, right), count in zip(pairwise(found.edges), found.counts, strict=True):
        if count:
            start, end = (x.place(max(edge, x.ticks[0].value), frame.left, frame.right) for edge in (left, right))
            height = round((frame.bottom - frame.top) * count / tallest, 1)
            hover = f"{variant.name}: {count} of {found.texts} texts from {words.cosine(left)} to {words.cosine(right)}"
            bars.append(Bar(start, round(frame.bottom - height, 1), max(round(end - start - 1, 1), 1), height, hover))
    return Plot(
        name=f"Cosines of {variant.name}",
        width=_SMALL_WIDTH,
        height=_SMALL_HEIGHT,
        frame=frame,
        x_title=x.title,
        x_marks=_thinned([Mark(x.place(t.value, frame.left, frame.right), t.text) for t in x.ticks], frame.right),
        y_marks=[Mark(frame.bottom, "0"), Mark(frame.top, f"{tallest:,}")],
        bars=bars,
        upright=None if floor is None or nines(floor) < x.low else _upright(x, floor),
    )


def _upright(x: Axis, floor: float) -> Rule:
    return Rule(x.place(floor, _SMALL_FRAME.left, _SMALL_FRAME.right), f"floor {floor:g}")


def frontier(rows: Sequence[Measured]) -> list[Measured]:
    """The rows that no other beats in recall@10 at as few bytes (the Pareto front), by rising bytes."""
    found: list[Measured] = []
    for row in sorted(rows, key=lambda row: (row.bytes_per_vector, -row.metrics["recall@10"])):
        if not found or row.metrics["recall@10"] > found[-1].metrics["recall@10"]:
            found.append(row)
    return found


def code_class(row: Measured) -> str:
    return f"{row.code}-rescored" if row.rescored else str(row.code)


def _timed(manifest: Manifest) -> list[tuple[Variant, float]]:
    """The chosen one first: it is the first to get a place for its name, and the last to be covered."""
    speeds, chosen = manifest.choice.tokens_per_second, manifest.choice.variant
    found = [(v, speeds[v.name]) for v in manifest.variants if v.name in speeds]
    return sorted(found, key=lambda pair: pair[0].name != chosen)


def _kind(manifest: Manifest, variant: Variant) -> str:
    return "chosen" if variant.name == manifest.choice.variant else "other"


def _speed_axis(speeds: Sequence[float]) -> Axis:
    return axis.even("tokens per second", speeds, from_zero=True)


def _right(x: Axis, value: float) -> float:
    return x.place(value, _FRAME.left, _FRAME.right)


def _up(y: Axis, value: float) -> float:
    return y.place(value, _FRAME.bottom, _FRAME.top)


def _scatter(
    name: str,
    x: Axis,
    y: Axis,
    dots: Sequence[Dot],
    names: Sequence[str],
    across: Rule | None = None,
    path: Sequence[tuple[float, float]] = (),
) -> Plot:
    return Plot(
        name=name,
        x_title=x.title,
        y_title=y.title,
        x_marks=_thinned([Mark(_right(x, tick.value), tick.text) for tick in x.ticks], _FRAME.right),
        y_marks=[Mark(_up(y, tick.value), tick.text) for tick in y.ticks],
        dots=dots,
        labels=place([(dot.x, dot.y) for dot in dots], names, _FRAME, _taken(dots, across)),
        across=across,
        path=path,
    )


def _taken(dots: Sequence[Dot], across: Rule | None) -> list[Box]:
    """What tails cover, and the words above the right end of a line across."""
    tails = [Box(dot.x - 4, dot.y, dot.x + 4, dot.tail + 2) for dot in dots if dot.tail is not None]
    if across is None:
        return tails
    return [*tails, Box(_FRAME.right - len(across.text) * _CHARACTER, across.at - 16, _FRAME.right, across.at + 2)]


def _thinned(marks: Sequence[Mark], right: float) -> list[Mark]:
    """From the right, without the words that would touch their neighbour's."""
    found: list[Mark] = []
    free = right + 40
    for mark in reversed(marks):
        half = len(mark.text) * _CHARACTER / 2
        fits = mark.at + half < free
        found.append(mark if fits else Mark(mark.at, ""))
        free = mark.at - half - 12 if fits else free
    return found
