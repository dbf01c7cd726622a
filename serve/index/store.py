"""What ranks candidates again: rows of codes, mapped from disk and widened when they are gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from embedship.codes import Int8Codes, Int8Scale, Vectors
from embedship.serve.index.arrays import mapped, write_rows
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import CODES


class RerankCodes(Protocol):
    def gather(self, rows: NDArray[np.int64]) -> Vectors:
        """(n, m) rows -> (n, m, dim) float32; a row of -1 gives any."""

    def weigh(self, queries: Vectors) -> Vectors:
        """(n, dim) queries, so that their product with what was gathered is the cosine."""


class Int8Store:
    """The bundle's frozen int8 codes."""

    def __init__(self, codes: Int8Codes, scale: Int8Scale) -> None:
        self._codes = codes
        self._scale = scale

    @classmethod
    def write(cls, folder: Path, truth: ExactVectors, scale: Int8Scale) -> Self:
        encoded = (scale.encode(block) for _, block in truth.blocks())
        write_rows(folder / CODES, encoded, (truth.size, truth.dimension), np.int8)
        return cls.open(folder, truth, scale)

    @classmethod
    def open(cls, folder: Path, truth: ExactVectors, scale: Int8Scale) -> Self:
        return cls(mapped(folder / CODES, (truth.size, truth.dimension), np.int8), scale)

    def gather(self, rows: NDArray[np.int64]) -> Vectors:
        return np.take(self._codes, rows, axis=0).astype(np.float32)

    def weigh(self, queries: Vectors) -> Vectors:
        return self._scale.weigh(queries)


class Float16Store:
    """The truth itself: nothing more on disk, and no rounding but its own."""

    def __init__(self, truth: ExactVectors) -> None:
        self._truth = truth

    def gather(self, rows: NDArray[np.int64]) -> Vectors:
        return self._truth.gathered(rows)

    def weigh(self, queries: Vectors) -> Vectors:
        return queries
