from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from embedship.bundle import BundleManifest, VectorCode
from embedship.charts.labels import LabelBox, box_of
from embedship.export.report import figures
from embedship.export.report.histogram import CosineHistogram

Make = Callable[..., BundleManifest]


def test_the_chosen_one_stands_first_and_tails_hang_down(manifest: Make) -> None:
    plot = figures.speed_against_cosine(manifest())
    assert [dot.kind for dot in plot.dots] == ["chosen", "other", "other", "other", "other"]
    assert {label.text for label in plot.labels} == {v.name for v in manifest().variants}
    assert all(dot.tail is not None and dot.tail >= dot.y for dot in plot.dots)
    chosen, onnx = plot.dots[0], plot.dots[1]
    assert chosen.x > onnx.x, "faster lies to the right"
    assert chosen.y > onnx.y, "further from the checkpoint lies below"
    assert chosen.hover == "openvino-int8: 22,103 tokens/s, mean cosine 0.99790, worst 0.98610 of 213 texts"


def test_names_leave_tails_alone(manifest: Make) -> None:
    """Two int8 variants of about the same speed and cosine, as MiniLM's are on a busy machine."""
    speeds = {"onnx": 388.0, "onnx-O3": 373.0, "onnx-int8": 687.0, "openvino": 807.0, "openvino-int8": 879.0}
    plot = figures.speed_against_cosine(
        manifest(choice=msgspec.structs.replace(manifest().choice, tokens_per_second=speeds))
    )
    for label in plot.labels:
        for dot in plot.dots:
            assert dot.tail is not None
            assert not box_of(label).overlap(LabelBox(dot.x - 3, dot.y, dot.x + 3, dot.tail)), label.text


def test_what_was_not_timed_has_no_point(manifest: Make) -> None:
    choice = msgspec.structs.replace(manifest().choice, tokens_per_second={"openvino-int8": 9.0})
    assert len(figures.speed_against_cosine(manifest(choice=choice)).dots) == 1


def test_recall_has_the_checkpoint_as_its_line(manifest: Make) -> None:
    made = manifest()
    assert made.quality is not None
    plot = figures.speed_against_recall(made, made.quality)
    assert plot is not None
    assert plot.across is not None
    assert plot.across.text == "checkpoint 0.6840"
    assert all(dot.y >= plot.across.at for dot in plot.dots), "none is above the checkpoint here"


def test_recall_of_the_checkpoint_alone_is_no_figure(manifest: Make) -> None:
    quality = manifest().quality
    assert quality is not None
    alone = msgspec.structs.replace(quality, measured=quality.measured[:1])
    assert figures.speed_against_recall(manifest(), alone) is None
    assert figures.recall_against_bytes(alone, "openvino-int8") is None


def test_the_front_rises_and_nothing_beats_it(manifest: Make) -> None:
    quality = manifest().quality
    assert quality is not None
    rows = [row for row in quality.measured if row.variant == "openvino-int8"]
    front = figures.frontier(rows)
    sizes, recalls = zip(*((row.bytes_per_vector, row.metrics["recall@10"]) for row in front), strict=True)
    assert list(sizes) == sorted(set(sizes))
    assert list(recalls) == sorted(set(recalls))
    for row in rows:
        at_most = [r for size, r in zip(sizes, recalls, strict=True) if size <= row.bytes_per_vector]
        assert row.metrics["recall@10"] <= max(at_most)
    plot = figures.recall_against_bytes(quality, "openvino-int8")
    assert plot is not None
    assert len(plot.lines[0].points) == len(front)
    assert len(plot.dots) == len(rows)
    assert {dot.kind for dot in plot.dots} == {*map(str, VectorCode), "ubinary-rescored"}


def test_a_histogram_shows_every_text_and_the_floor(manifest: Make, spreads: dict[str, np.ndarray]) -> None:
    variant = manifest().variants[-1]
    found = CosineHistogram.from_cosines(spreads[variant.name])
    plot = figures.histogram(variant, found, 0.9861, 0.97)
    assert len(plot.bars) == sum(count > 0 for count in found.counts)
    assert max(bar.height for bar in plot.bars) == plot.frame.bottom - plot.frame.top
    assert all(plot.frame.left <= bar.x and bar.x + bar.width <= plot.frame.right for bar in plot.bars)
    assert plot.upright is not None
    assert plot.upright.at < min(bar.x for bar in plot.bars), "the floor lies below every text"
    assert figures.histogram(variant, found, 0.9861, 0.5).upright is None, "far outside the axis"
    assert figures.histogram(variant, found, 0.9861, None).upright is None


def test_texts_below_the_axis_are_drawn_at_its_end(manifest: Make) -> None:
    plot = figures.histogram(manifest().variants[0], CosineHistogram.from_cosines([0.2, 0.99]), 0.99, None)
    assert min(bar.x for bar in plot.bars) == plot.frame.left
