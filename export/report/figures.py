"""Plots of an export report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from embedship.bundle import BundleManifest, RetrievalReport, RetrievalResult, Variant
from embedship.charts import axis
from embedship.charts.axis import Axis
from embedship.charts.plot import (
    SMALL_FRAME,
    SMALL_HEIGHT,
    SMALL_WIDTH,
    AxisMark,
    Plot,
    PlotBar,
    PlotDot,
    PlotLine,
    ReferenceLine,
    place_x,
    place_y,
    scatter,
    thinned,
)
from embedship.export.report import wording
from embedship.export.report.histogram import CosineHistogram, cosine_axis, nines


def speed_against_cosine(manifest: BundleManifest) -> Plot:
    """Plot the mean cosine to the checkpoint (y) against speed (x). A line leads down to that of the worst text."""
    timed = _timed(manifest)
    x = _speed_axis([speed for _, speed in timed])
    y = cosine_axis("mean cosine to the checkpoint", min(v.parity.minimum for v, _ in timed))
    dots = [
        PlotDot(
            place_x(x, speed),
            place_y(y, variant.parity.mean),
            _kind(manifest, variant),
            f"{variant.name}: {wording.count(speed)} tokens/s, mean cosine {wording.cosine(variant.parity.mean)}, "
            f"worst {wording.cosine(variant.parity.minimum)} of {variant.parity.texts} texts",
            place_y(y, variant.parity.minimum),
        )
        for variant, speed in timed
    ]
    return scatter("Speed against cosine", x, y, dots, [variant.name for variant, _ in timed])


def speed_against_recall(manifest: BundleManifest, quality: RetrievalReport) -> Plot | None:
    """Plot recall@10 on the user's questions against speed. None if no timed variant has a measured recall."""
    plain = wording.plain_rows(quality)
    points = [(v, speed, plain[v.name].metrics["recall@10"]) for v, speed in _timed(manifest) if v.name in plain]
    if not points:
        return None
    checkpoint = plain["checkpoint"].metrics["recall@10"] if "checkpoint" in plain else None
    x = _speed_axis([speed for _, speed in _timed(manifest)])
    y = axis.even("recall@10", [recall for *_, recall in points] + ([] if checkpoint is None else [checkpoint]))
    dots = [
        PlotDot(
            place_x(x, speed),
            place_y(y, recall),
            _kind(manifest, variant),
            f"{variant.name}: {wording.count(speed)} tokens/s, recall@10 {recall:.4f}, {quality.queries:,} queries",
        )
        for variant, speed, recall in points
    ]
    across = None if checkpoint is None else ReferenceLine(place_y(y, checkpoint), f"checkpoint {checkpoint:.4f}")
    return scatter("Speed against recall", x, y, dots, [variant.name for variant, *_ in points], across)


def recall_against_bytes(quality: RetrievalReport, variant: str) -> Plot | None:
    """Plot one point per dimension and code of a variant; None if fewer than two were measured."""
    rows = [row for row in quality.measured if row.variant == variant]
    if len(rows) < 2:
        return None
    best = frontier(rows)
    x = axis.doublings("bytes per vector (log scale)", [row.bytes_per_vector for row in rows])
    y = axis.even("recall@10", [row.metrics["recall@10"] for row in rows])
    dots = [
        PlotDot(
            place_x(x, row.bytes_per_vector),
            place_y(y, row.metrics["recall@10"]),
            code_class(row),
            f"{row.dimension} dimensions, {wording.code(row)}: recall@10 {row.metrics['recall@10']:.4f}, "
            f"{row.bytes_per_vector:,} bytes per vector",
        )
        for row in rows
    ]
    names = [str(row.dimension) if row in best else "" for row in rows]
    line = [(dot.x, dot.y) for dot, row in zip(dots, rows, strict=True) if row in best]
    return scatter("Recall against bytes per vector", x, y, dots, names, lines=[PlotLine("front", sorted(line))])


def histogram(variant: Variant, cosines: CosineHistogram, worst: float, floor: float | None) -> Plot:
    """Plot the distribution of cosines to the checkpoint.

    `worst` is the lowest cosine of all variants, so that the histograms of all variants have the same axis.
    """
    frame, x = SMALL_FRAME, cosine_axis("cosine to the checkpoint", worst)
    tallest = max(cosines.counts)
    bars = []
    for (left, right), count in zip(pairwise(cosines.edges), cosines.counts, strict=True):
        if count:
            start, end = (x.place(max(edge, x.ticks[0].value), frame.left, frame.right) for edge in (left, right))
            height = round((frame.bottom - frame.top) * count / tallest, 1)
            limits = f"from {wording.cosine(left)} to {wording.cosine(right)}"
            hover = f"{variant.name}: {count} of {cosines.texts} texts {limits}"
            bars.append(
                PlotBar(start, round(frame.bottom - height, 1), max(round(end - start - 1, 1), 1), height, hover)
            )
    return Plot(
        name=f"Cosines of {variant.name}",
        width=SMALL_WIDTH,
        height=SMALL_HEIGHT,
        frame=frame,
        x_title=x.title,
        x_marks=thinned([AxisMark(x.place(t.value, frame.left, frame.right), t.text) for t in x.ticks], frame.right),
        y_marks=[AxisMark(frame.bottom, "0"), AxisMark(frame.top, f"{tallest:,}")],
        bars=bars,
        upright=None if floor is None or nines(floor) < x.low else _upright(x, floor),
    )


def _upright(x: Axis, floor: float) -> ReferenceLine:
    return ReferenceLine(x.place(floor, SMALL_FRAME.left, SMALL_FRAME.right), f"floor {floor:g}")


def frontier(rows: Sequence[RetrievalResult]) -> list[RetrievalResult]:
    """Return the Pareto front of recall@10 and bytes, by rising bytes."""
    best: list[RetrievalResult] = []
    for row in sorted(rows, key=lambda row: (row.bytes_per_vector, -row.metrics["recall@10"])):
        if not best or row.metrics["recall@10"] > best[-1].metrics["recall@10"]:
            best.append(row)
    return best


def code_class(row: RetrievalResult) -> str:
    return f"{row.code}-rescored" if row.rescored else str(row.code)


def _timed(manifest: BundleManifest) -> list[tuple[Variant, float]]:
    """Return measured variants, the chosen one first: its label is placed first and its point is drawn on top."""
    speeds, chosen = manifest.choice.tokens_per_second, manifest.choice.variant
    timed = [(v, speeds[v.name]) for v in manifest.variants if v.name in speeds]
    return sorted(timed, key=lambda pair: pair[0].name != chosen)


def _kind(manifest: BundleManifest, variant: Variant) -> str:
    return "chosen" if variant.name == manifest.choice.variant else "other"


def _speed_axis(speeds: Sequence[float]) -> Axis:
    return axis.even("tokens per second", speeds, from_zero=True)
