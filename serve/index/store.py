"""Codes that re-rank candidates: rows mapped from disk, and converted to float32 when they are gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from embedship.codes import Int8Codes, Int8Scale, Vectors
from embedship.serve.index.arrays import map_array, write_rows
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import CODES


class RerankCodes(Protocol):
    """Codes of all rows of an index."""

    def gather(self, rows: NDArray[np.int64]) -> Vectors:
        """Return the codes (n, m, dim) of rows (n, m) as float32; a row of -1 gives arbitrary values."""

    def weigh(self, queries: Vectors) -> Vectors:
        """Return queries (n, dim), scaled so that their product with gathered codes is the cosine."""


class Int8Store:
    """Int8 codes, with the fixed scale of the bundle."""

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
        return cls(map_array(folder / CODES, (truth.size, truth.dimension), np.int8), scale)

    def gather(self, rows: NDArray[np.int64]) -> Vectors:
        return np.take(self._codes, rows, axis=0).astype(np.float32)

    def weigh(self, queries: Vectors) -> Vectors:
        return self._scale.weigh(queries)


class Float16Store:
    """Uses the exact vectors, which are stored as float16. No further file is needed."""

    def __init__(self, truth: ExactVectors) -> None:
        self._truth = truth

    def gather(self, rows: NDArray[np.int64]) -> Vectors:
        return self._truth.gather(rows)

    def weigh(self, queries: Vectors) -> Vectors:
        return queries
