"""Tokens -> batches: grouped by length within a token budget, in few shapes, so that padding and compiling stay small.

OpenVINO compiles for each shape of batch it meets (MiniLM on two cores: some 10 ms, where a query takes 3, and 4 MB a
stream that it keeps), and GPUs plan and allocate by shape. So rows are a power of two, and widths above 32 are rounded
up to 16 steps an octave, which pads 2% on average and 6% at worst. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

# Throughput is flat between 1,024 and 2,048 padded tokens a batch on two cores with MiniLM, and a small batch keeps
# the wait of the next query short.
BUDGET = 1536

# A batch may hold 5% padding, or this many tokens where 5% is less: a token of padding costs a small batch less than
# a batch of its own would.
PADDING = 0.05
SLACK = 16

_STEPS = 16  # widths an octave


@dataclass(frozen=True, slots=True)
class Batch:
    """What an engine takes: (n, length) int64 ids and mask, padded on the right.

    `turns`, (n,) int64: where the second text of each pair begins, 0 where there is none; None: there are no pairs.
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def token_types(self) -> npt.NDArray[np.int64]:
        """(n, length) int64: 1 for the tokens of a second text, 0 for all others and for padding."""
        if self.turns is None:
            return self.input_ids * 0
        second = (
            np.arange(self.input_ids.shape[1]) >= np.where(self.turns > 0, self.turns, np.iinfo(np.int64).max)[:, None]
        )
        return second * self.attention_mask

    def turned(self, turns: Sequence[int]) -> Batch:
        """The same rows with these turns; none, or only zeros: as it is."""
        return replace(self, turns=np.asarray(turns, dtype=np.int64)) if any(turns) else self


class Rectangle:
    """A batch on its way: how much it holds, and whether one more text would be worth its padding."""

    def __init__(self, budget: int) -> None:
        self.rows = 0
        self._budget = budget
        self._width = self._tokens = 0

    def add(self, length: int) -> None:
        self.rows += 1
        self._width = max(self._width, rounded(length))
        self._tokens += length

    def padding(self, length: int) -> int:
        """Padded tokens of the rectangle, were a text of this length added."""
        return self._area(length) - self._tokens - length

    def fits(self, length: int) -> bool:
        if not self.rows:
            return True
        allowed = max(SLACK, PADDING * (self._tokens + length))
        return self._area(length) <= self._budget and self.padding(length) <= allowed

    def _area(self, length: int) -> int:
        return (self.rows + 1) * max(self._width, rounded(length))


def pad(ids: Sequence[Sequence[int]], pad_id: int, width: int = 1) -> Batch:
    """Lay rows of token ids into one rectangle, `width` columns wide or as wide as the longest row.

    Always on the right: exact for causal models too, because pooling takes its positions from the mask.
    """
    width = max(width, *map(len, ids))
    input_ids = np.full((len(ids), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.int64)
    for i, row in enumerate(ids):
        input_ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return Batch(input_ids, mask)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model's batches are laid out: in few widths, none beyond its positions."""

    pad_id: int
    positions: int

    def width(self, longest: int) -> int:
        return min(rounded(longest), self.positions)

    def batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        return pad(ids, self.pad_id, self.width(max(map(len, ids))))


def plan(lengths: Sequence[int], budget: int = BUDGET) -> Iterator[list[int]]:
    """Yield groups of row numbers, longest first, each of them a batch that a `Rectangle` takes.

    Longest first, so that the last batches to finish are the cheap ones and no stream idles long.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rectangle = Rectangle(budget)
        for row in order[start:]:
            if not rectangle.fits(lengths[row]):
                break
            rectangle.add(lengths[row])
        end = start + round_rows(rectangle.rows)
        yield order[start:end]
        start = end


def rounded(length: int) -> int:
    """The width of a batch whose longest text has so many tokens."""
    step = max(1, (1 << (length - 1).bit_length()) // (2 * _STEPS))
    return -(-length // step) * step


def round_rows(rows: int) -> int:
    """How many of so many texts (one or more) to compute at once; the others make the next batch."""
    return 1 << (rows.bit_length() - 1)
