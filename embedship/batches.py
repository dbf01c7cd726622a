"""Tokens -> batches: grouped by length within a token budget, in few shapes, so that padding and compiling stay small.

OpenVINO compiles for each shape of batch it meets (MiniLM on two cores: some 10 ms, where a query takes 3, and 4 MB a
stream that it keeps), GPUs plan and allocate by shape, and every shape is certified (shapes.py). So rows are a power of
two, and widths above 16 are rounded up to 8 steps an octave. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedship.errors import EngineError

# Throughput is flat between 1,024 and 2,048 padded tokens a batch on two cores with MiniLM, and a small batch keeps
# the wait of the next query short.
BUDGET = 1536

# A batch may hold 5% padding, or this many tokens where 5% is less: a token of padding costs a small batch less than
# a batch of its own would.
PADDING = 0.05
SLACK = 16

# More texts at once gain nothing where the budget is a CPU's, and would be shapes more to certify.
ROWS = 32
_ROW_TOKENS = 48

_STEPS = 8  # widths an octave


class PaddedShape(NamedTuple):
    """Of a batch: rows, and tokens a row, padding included."""

    rows: int
    width: int


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


class BatchShape:
    """A batch on its way: how much it holds, and whether one more text would be worth its padding."""

    def __init__(self, budget: int) -> None:
        self.rows = 0
        self._budget = budget
        self._most = most_rows(budget)
        self._width = self._tokens = 0

    def add(self, length: int) -> None:
        self.rows += 1
        self._width = max(self._width, padded_width(length))
        self._tokens += length

    def padding(self, length: int) -> int:
        """Padded tokens of the rectangle, were a text of this length added."""
        return self._area(length) - self._tokens - length

    def fits(self, length: int) -> bool:
        if not self.rows:
            return True
        if self.rows >= self._most or self._area(length) > self._budget:
            return False
        # A text of the batch's own width is padded as much in any other batch.
        allowed = max(SLACK, PADDING * (self._tokens + length))
        return padded_width(length) == self._width or self.padding(length) <= allowed

    def _area(self, length: int) -> int:
        return (self.rows + 1) * max(self._width, padded_width(length))


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
class BatchLayout:
    """How a model's batches are laid out: in few shapes, none beyond its positions, and in none that is wrong."""

    pad_id: int
    positions: int
    budget: int = BUDGET
    wrong: frozenset[PaddedShape] = frozenset()

    def without(self, shapes: Sequence[PaddedShape]) -> BatchLayout:
        """The same layout, which does not use these shapes either."""
        return replace(self, wrong=self.wrong.union(shapes))

    def widths(self) -> list[int]:
        """All widths a batch may have, ascending."""
        return list(_widths(self.positions))

    def shapes(self) -> list[PaddedShape]:
        """Every shape that a batch may have, the wrong ones included: by rows, then by width."""
        counts = [1 << power for power in range(most_rows(self.budget).bit_length())]
        return [PaddedShape(rows, width) for rows in counts for width in self.widths() if self._affords(rows, width)]

    def shape(self, rows: int, longest: int) -> PaddedShape | None:
        """The smallest right shape that holds so many texts of at most `longest` tokens; None: only fewer texts."""
        least = round_rows(2 * rows - 1)
        counts = [least << power for power in range(most_rows(self.budget).bit_length()) if rows]
        width = self._rounded(longest)
        if (exact := PaddedShape(least, width)) not in self.wrong and self._affords(*exact):
            return exact
        wider = [each for each in self.widths() if each >= width]
        fitting = (PaddedShape(r, w) for r in counts for w in wider if self._affords(r, w) and (r, w) not in self.wrong)
        return min(fitting, key=lambda shape: shape.rows * shape.width, default=None)

    def encode(
        self,
        encode: Callable[[Batch], npt.NDArray[np.float32]],
        ids: Sequence[Sequence[int]],
        turns: Sequence[int] = (),
    ) -> npt.NDArray[np.float32]:
        """Return what `encode` gives for these texts, (n, dim) in their order: as one batch of a right shape, or, where
        there is none for so many, as several.

        Raises EngineError where a text alone has no right shape; whatever `encode` raises is passed on.
        """
        shape = self.shape(len(ids), max(map(len, ids)))
        if shape is not None:
            found = encode(self.batch(ids, turns, shape))
            return found if shape.rows == len(ids) else found[: len(ids)]
        middle = len(ids) // 2
        if not middle:
            raise EngineError(f"a text of {len(ids[0])} tokens fits no shape that this engine computes rightly")
        halves = [self.encode(encode, ids[half], turns[half]) for half in (slice(middle), slice(middle, None))]
        return np.concatenate(halves)

    def batch(self, ids: Sequence[Sequence[int]], turns: Sequence[int] = (), shape: PaddedShape | None = None) -> Batch:
        """These texts in `shape` (default: that of `shape()`, where there is one). Rows too many repeat the first."""
        shape = (
            shape
            or self.shape(len(ids), max(map(len, ids)))
            or PaddedShape(len(ids), self._rounded(max(map(len, ids))))
        )
        more = shape.rows - len(ids)
        repeated = [turns[0]] * more if turns else []
        return pad([*ids, *[ids[0]] * more], self.pad_id, shape.width).turned([*turns, *repeated])

    def _rounded(self, longest: int) -> int:
        return _rounded(longest, self.positions)

    def _affords(self, rows: int, width: int) -> bool:
        return rows == 1 or (rows <= most_rows(self.budget) and rows * width <= self.budget)


def plan(lengths: Sequence[int], budget: int = BUDGET) -> Iterator[list[int]]:
    """Yield groups of row numbers, longest first, each of them a batch that a `BatchShape` takes.

    Longest first, so that the last batches to finish are the cheap ones and no stream idles long.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        rectangle = BatchShape(budget)
        for row in order[start:]:
            if not rectangle.fits(lengths[row]):
                break
            rectangle.add(lengths[row])
        end = start + round_rows(rectangle.rows)
        yield order[start:end]
        start = end


def _rounded(longest: int, positions: int) -> int:
    return max(1, min(padded_width(longest), positions))


@cache
def _widths(positions: int) -> tuple[int, ...]:
    return tuple(sorted({_rounded(length, positions) for length in range(1, positions + 1)}))


def most_rows(budget: int) -> int:
    """How many texts a batch may hold at most: a power of two."""
    return round_rows(max(ROWS, budget // _ROW_TOKENS))


def padded_width(length: int) -> int:
    """The width of a batch whose longest text has so many tokens."""
    step = max(1, (1 << (length - 1).bit_length()) // (2 * _STEPS))
    return -(-length // step) * step


def round_rows(rows: int) -> int:
    """How many of so many texts (one or more) to compute at once; the others make the next batch."""
    return 1 << (rows.bit_length() - 1)
