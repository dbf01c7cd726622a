"""Labels of points, placed so that they cover neither points nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_CHARACTER, _LINE = 6.6, 13  # width of a character and height of a line, in pixels, of text at 12 pixels
_GAP = 9


class PlacedLabel(NamedTuple):
    """A label and where it is drawn, in pixels."""

    x: float
    y: float  # of the base line
    anchor: str  # start, middle or end, as in SVG's text-anchor
    text: str
    leader: tuple[float, float] | None = None  # the labelled point, if the label is so far away that it needs a line


class LabelBox(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: LabelBox) -> float:
        """Return the area that both rectangles cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: LabelBox) -> float:
        """Return the area that is outside the frame."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(frame)


def place(
    points: Sequence[tuple[float, float]], names: Sequence[str], frame: LabelBox, occupied: Sequence[LabelBox] = ()
) -> list[PlacedLabel]:
    """Return a label for each point that has a name, in order: next to it if there is space, else further away."""
    occupied = [*occupied, *(LabelBox(x - 6, y - 6, x + 6, y + 6) for x, y in points)]
    labels = []
    for (x, y), name in zip(points, names, strict=True):
        if name:
            label = min(_candidates(x, y, name), key=lambda label: _cost(label, occupied, frame))
            occupied.append(box_of(label))
            labels.append(label)
    return labels


def _candidates(x: float, y: float, name: str) -> list[PlacedLabel]:
    """Return possible positions, nearest first, because `min` returns the first of equal candidates."""
    adjacent = [
        PlacedLabel(x + _GAP, y + 4, "start", name),
        PlacedLabel(x - _GAP, y + 4, "end", name),
        PlacedLabel(x, y - _GAP, "middle", name),
        PlacedLabel(x, y + _GAP + 10, "middle", name),
    ]
    away = [
        PlacedLabel(round(x + side * 16, 1), round(y + 4 + rows * (_LINE + 3), 1), anchor, name, (x, y))
        for distance in range(1, 7)
        for rows in (distance, -distance)
        for side, anchor in ((1, "start"), (-1, "end"))
    ]
    return adjacent + away


def _cost(label: PlacedLabel, occupied: Sequence[LabelBox], frame: LabelBox) -> float:
    box = box_of(label)
    return sum(box.overlap(other) for other in occupied) + 10 * box.outside(frame)


def box_of(label: PlacedLabel) -> LabelBox:
    """Return the rectangle that the text covers, approximately."""
    width = len(label.text) * _CHARACTER
    left = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
    return LabelBox(left, label.y - _LINE + 3, left + width, label.y + 3)
