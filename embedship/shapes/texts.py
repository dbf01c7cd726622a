"""Texts for the test of batch shapes: made from the golden texts, as many as the test needs for each width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedship.batches import Batch
from embedship.bundle import Task
from embedship.codes import Vectors
from embedship.golden_texts import GoldenTexts
from embedship.likeness import spread
from embedship.shapes.subject import CertificateSubject

Key = tuple[int, int]  # width, number


@dataclass(frozen=True, slots=True)
class ShapeTexts:
    """Texts made from the golden texts, numbered from 0 for each width. Text 0 is as long as the width."""

    stream: list[int]  # the token ids of the golden texts, without special tokens, one after another
    first: list[int]  # the special token before each text, if any
    last: list[int]  # the special token after each text, if any
    pairs: bool
    widths: list[int]
    pad_id: int
    spread: float | None  # of the golden scores; None: the model returns vectors

    @classmethod
    def from_subject(cls, subject: CertificateSubject) -> ShapeTexts:
        """Return the texts for the widths of a subject."""
        golden = GoldenTexts.load(subject.encoder.bundle)
        tokens = subject.encoder.tokenizer(golden.real)
        rows = [row for row in tokens.ids if row]
        # If the tokenizer adds special tokens, all texts begin with one id and end with one id.
        heads, tails = {row[0] for row in rows}, {row[-1] for row in rows}
        first, last = ([*ids] if len(ids) == 1 else [] for ids in (heads, tails))
        stream = [i for row in rows for i in row[len(first) : len(row) - len(last)]] or rows[0]
        scores = None if subject.encoder.bundle.task is Task.EMBED else spread(golden.vectors)
        layout = subject.layout
        return cls(stream, first, last, any(tokens.turns), layout.widths(), layout.pad_id, scores)

    def ids(self, key: Key) -> list[int]:
        """Return the token ids of a text. It is longer than the next narrower width."""
        width, number = key
        index = self.widths.index(width)
        shortest = self.widths[index - 1] + 1 if index else 1
        length = width - (number % (width - shortest + 1))
        frame = len(self.first) + len(self.last)
        if length <= frame:
            return [*self.first, *self.last][:length]
        start = 37 * number + 13 * width
        inner = [self.stream[(start + i) % len(self.stream)] for i in range(length - frame)]
        return [*self.first, *inner, *self.last]

    def batch(self, keys: Sequence[Key], width: int) -> Batch:
        """Return a batch of these texts, one per row, (n, width)."""
        ids = [self.ids(key) for key in keys]
        mask = np.zeros((len(ids), width), dtype=np.int64)
        padded = np.full_like(mask, self.pad_id)
        for index, row in enumerate(ids):
            padded[index, : len(row)], mask[index, : len(row)] = row, 1
        return Batch(padded, mask).with_turns(self.turns(ids))

    def turns(self, ids: Sequence[Sequence[int]]) -> list[int]:
        """Return where the second text of each pair begins; empty if the model does not read pairs."""
        return [len(row) // 2 for row in ids] if self.pairs else []

    def likeness(self, expected: Vectors, actual: Vectors) -> npt.NDArray[np.float64]:
        """Return the likeness of each pair of (n, dim) rows, (n,) float64: 1 is identical.

        If vectors do not have unit length, their lengths count as well. A cosine would ignore them.
        """
        a, b = expected.astype(np.float64), actual.astype(np.float64)
        if self.spread is not None:
            return np.maximum(1 - ((a - b)[:, 0] / self.spread) ** 2 / 2, -1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
            same: npt.NDArray[np.float64] = 1 - (np.linalg.norm(a - b, axis=1) / size) ** 2 / 2
            return np.where((size == 0) & np.isfinite(size), 1.0, same)
