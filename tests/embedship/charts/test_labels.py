from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from embedship.charts.labels import LabelBox, PlacedLabel, box_of, place

FRAME = LabelBox(70, 30, 386, 236)


def boxes(labels: list[PlacedLabel]) -> list[LabelBox]:
    return [box_of(label) for label in labels]


def test_a_lone_point_has_its_name_at_its_right() -> None:
    (label,) = place([(200, 100)], ["onnx"], FRAME)
    assert (label.anchor, label.leader) == ("start", None)
    assert label.x > 200


def test_at_the_right_edge_it_turns_to_the_left() -> None:
    (label,) = place([(380, 100)], ["openvino-int8"], FRAME)
    assert label.anchor == "end"
    assert not boxes([label])[0].outside(FRAME)


@pytest.mark.parametrize("seed", range(5))
def test_names_cover_neither_points_nor_each_other(seed: int) -> None:
    """Eight variants, half of them as near to each other as float32 ones are."""
    random = np.random.default_rng(seed)
    points = [(random.uniform(80, 370), random.uniform(40, 220)) for _ in range(4)]
    points += [(points[0][0] + random.normal(0, 2), points[0][1]) for _ in range(4)]
    found = boxes(place(points, [f"variant-{i}" for i in range(8)], FRAME))
    assert all(not a.overlap(b) for a, b in combinations(found, 2))
    assert all(not box.overlap(LabelBox(x - 5, y - 5, x + 5, y + 5)) for box in found for x, y in points)
    assert all(not box.outside(FRAME) for box in found)


def test_what_is_taken_is_left_alone() -> None:
    taken = LabelBox(205, 90, 260, 110)
    (label,) = place([(200, 100)], ["onnx"], FRAME, [taken])
    assert not boxes([label])[0].overlap(taken)


def test_a_point_without_a_name_gets_no_label() -> None:
    assert [label.text for label in place([(200, 100), (100, 100)], ["", "64"], FRAME)] == ["64"]
