"""Names beside points, placed so that they cover neither a point nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_CHARACTER, _LINE = 6.6, 13  # of text at 12 pixels
_GAP = 9


class PlacedLabel(NamedTuple):
    x: float
    y: float  # of the base line
    anchor: str  # start, middle or end: as SVG's text-anchor
    text: str
    leader: tuple[float, float] | None = None  # the point, where the name lies too far from it to be read as its own


class LabelBox(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: LabelBox) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: LabelBox) -> float:
        """The area that juts out of the frame."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(frame)


def place(
    points: Sequence[tuple[float, float]], names: Sequence[str], frame: LabelBox, taken: Sequence[LabelBox] = ()
) -> list[PlacedLabel]:
    """A label for each point that has a name, in order: beside it where there is room, else further away on a line."""
    taken = [*taken, *(LabelBox(x - 6, y - 6, x + 6, y + 6) for x, y in points)]
    found = []
    for (x, y), name in zip(points, names, strict=True):
        if name:
            label = min(_candidates(x, y, name), key=lambda label: _cost(label, taken, frame))
            taken.append(box_of(label))
            found.append(label)
    return found


def _candidates(x: float, y: float, name: str) -> list[PlacedLabel]:
    """Nearest first: `min` keeps the first of equals."""
    beside = [
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
    return beside + away


def _cost(label: PlacedLabel, taken: Sequence[LabelBox], frame: LabelBox) -> float:
    box = box_of(label)
    return sum(box.overlap(other) for other in taken) + 10 * box.outside(frame)


def box_of(label: PlacedLabel) -> LabelBox:
    """About what the text covers."""
    width = len(label.text) * _CHARACTER
    left = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor]
    return LabelBox(left, label.y - _LINE + 3, left + width, label.y + 3)
