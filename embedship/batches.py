"""Batches of token ids: grouped by length within a token budget, in few shapes, to limit padding and compiling.

OpenVINO compiles for each new batch shape. For MiniLM on two cores, this takes about 10 ms (a query takes 3 ms) and
keeps 4 MB per stream. GPUs plan and allocate by shape, and every shape is certified (see embedship.shapes). So rows are
a power of two, and widths above 16 are rounded up to 8 steps per octave. Pure functions and data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedship.errors import EngineError

# Padded tokens per batch. Throughput of MiniLM on two cores is flat between 1,024 and 2,048, and a small batch keeps
# the wait of the next query short.
BUDGET = 1536

# A batch may have 5% padding, or this many tokens if 5% is less: a few padding tokens cost less than another batch.
PADDING = 0.05
SLACK = 16

# With a CPU's budget, more texts per batch are not faster, and they would add shapes to certify.
ROWS = 32
_ROW_TOKENS = 48

_STEPS = 8  # widths per octave

# In an attention mask: a token that the model reads and does not pool. Graphs of models that pool their prompts see
# only 0 and 1. Other tools always give 1; they get the vectors of texts that begin with the prompt.
UNPOOLED = 2


class PaddedShape(NamedTuple):
    """The shape of a batch: rows, and tokens per row including padding."""

    rows: int
    width: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of an engine: (n, length) int64 ids and mask, padded on the right.

    The mask is 1, 0 for padding, and UNPOOLED for the tokens of a prompt that is not pooled.

    `turns`, (n,) int64: where the second text of each pair begins, 0 if a row has none. None: there are no pairs.
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

    def with_turns(self, turns: Sequence[int]) -> Batch:
        """Return the same rows with these turns. The batch is unchanged if there are none or all are 0."""
        return replace(self, turns=np.asarray(turns, dtype=np.int64)) if any(turns) else self

    def with_unpooled_prompts(self, lengths: Sequence[int]) -> Batch:
        """Return the same rows, of which the first `lengths` tokens are not pooled."""
        prompts = np.arange(self.input_ids.shape[1]) < np.asarray(lengths, dtype=np.int64)[:, None]
        return replace(self, attention_mask=np.where(prompts, UNPOOLED * self.attention_mask, self.attention_mask))


class BatchShape:
    """Size of a batch that is being filled: decides if one more text is worth its padding."""

    def __init__(self, budget: int) -> None:
        self.rows = 0
        self._budget = budget
        self._most = most_rows(budget)
        self._width = self._tokens = 0

    def add(self, length: int) -> None:
        """Count one more text of this length."""
        self.rows += 1
        self._width = max(self._width, padded_width(length))
        self._tokens += length

    def padding(self, length: int) -> int:
        """Return the padding tokens of the batch if a text of this length were added."""
        return self._area(length) - self._tokens - length

    def fits(self, length: int) -> bool:
        """Return whether a text of this length should join the batch."""
        if not self.rows:
            return True
        if self.rows >= self._most or self._area(length) > self._budget:
            return False
        # A text with the width of this batch would have the same padding in any other batch.
        allowed = max(SLACK, PADDING * (self._tokens + length))
        return padded_width(length) == self._width or self.padding(length) <= allowed

    def _area(self, length: int) -> int:
        return (self.rows + 1) * max(self._width, padded_width(length))


def pad(ids: Sequence[Sequence[int]], pad_id: int, width: int = 1) -> Batch:
    """Put rows of token ids into one rectangle, `width` columns wide or as wide as the longest row.

    Padding is always on the right. That is exact for causal models as well, because pooling uses the mask's positions.
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
    """The allowed shapes of a model's batches: few, not wider than its positions, and without the wrong shapes."""

    pad_id: int
    positions: int
    budget: int = BUDGET
    wrong: frozenset[PaddedShape] = frozenset()
    pools_prompts: bool = True  # False: `turns` are where the texts begin after prompts that are not pooled

    def without(self, shapes: Sequence[PaddedShape]) -> BatchLayout:
        """Return the same layout without these shapes."""
        return replace(self, wrong=self.wrong.union(shapes))

    def widths(self) -> list[int]:
        """Return all widths a batch may have, ascending."""
        return list(_widths(self.positions))

    def shapes(self) -> list[PaddedShape]:
        """Return every shape a batch may have, including the wrong ones, sorted by rows, then by width."""
        counts = [1 << power for power in range(most_rows(self.budget).bit_length())]
        return [
            PaddedShape(rows, width)
            for rows in counts
            for width in self.widths()
            if self._is_within_budget(rows, width)
        ]

    def shape(self, rows: int, longest: int) -> PaddedShape | None:
        """Return the smallest right shape for `rows` texts of at most `longest` tokens; None if they must be split."""
        least = round_rows(2 * rows - 1)
        counts = [least << power for power in range(most_rows(self.budget).bit_length()) if rows]
        width = self._rounded(longest)
        if (exact := PaddedShape(least, width)) not in self.wrong and self._is_within_budget(*exact):
            return exact
        wider = [each for each in self.widths() if each >= width]
        fitting = (
            PaddedShape(r, w)
            for r in counts
            for w in wider
            if self._is_within_budget(r, w) and (r, w) not in self.wrong
        )
        return min(fitting, key=lambda shape: shape.rows * shape.width, default=None)

    def encode(
        self,
        encode: Callable[[Batch], npt.NDArray[np.float32]],
        ids: Sequence[Sequence[int]],
        turns: Sequence[int] = (),
    ) -> npt.NDArray[np.float32]:
        """Return what `encode` returns for these texts, (n, dim) in their order.

        They are one batch if there is a right shape for it, else several. Raises EngineError if a single text has no
        right shape. Exceptions of `encode` are passed on.
        """
        shape = self.shape(len(ids), max(map(len, ids)))
        if shape is not None:
            vectors = encode(self.batch(ids, turns, shape))
            return vectors if shape.rows == len(ids) else vectors[: len(ids)]
        middle = len(ids) // 2
        if not middle:
            raise EngineError(f"no batch shape that fits a text of {len(ids[0])} tokens gives right vectors here")
        halves = [self.encode(encode, ids[half], turns[half]) for half in (slice(middle), slice(middle, None))]
        return np.concatenate(halves)

    def batch(self, ids: Sequence[Sequence[int]], turns: Sequence[int] = (), shape: PaddedShape | None = None) -> Batch:
        """Return these texts in `shape` (default: that of `shape()`, if any). Missing rows repeat the first."""
        shape = (
            shape
            or self.shape(len(ids), max(map(len, ids)))
            or PaddedShape(len(ids), self._rounded(max(map(len, ids))))
        )
        missing = shape.rows - len(ids)
        repeated = [turns[0]] * missing if turns else []
        batch = pad([*ids, *[ids[0]] * missing], self.pad_id, shape.width)
        if not self.pools_prompts and any(turns):
            return batch.with_unpooled_prompts([*turns, *repeated])
        return batch.with_turns([*turns, *repeated])

    def _rounded(self, longest: int) -> int:
        return _rounded(longest, self.positions)

    def _is_within_budget(self, rows: int, width: int) -> bool:
        return rows == 1 or (rows <= most_rows(self.budget) and rows * width <= self.budget)


def plan(lengths: Sequence[int], budget: int = BUDGET) -> Iterator[list[int]]:
    """Yield groups of row numbers, each a batch that a `BatchShape` accepts, longest texts first.

    Longest first, so that the last batches are cheap and no stream is idle for long.
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
    """Return the largest number of texts in a batch: a power of two."""
    return round_rows(max(ROWS, budget // _ROW_TOKENS))


def padded_width(length: int) -> int:
    """Return the width of a batch whose longest text has `length` tokens."""
    step = max(1, (1 << (length - 1).bit_length()) // (2 * _STEPS))
    return -(-length // step) * step


def round_rows(rows: int) -> int:
    """Return how many of `rows` texts (one or more) to compute at once: the largest power of two."""
    return 1 << (rows.bit_length() - 1)
