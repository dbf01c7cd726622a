"""Vector codes: how a float32 unit vector is cut, packed and scored. numpy only, no state."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]  # (n, dim), unit rows
Float16Codes = npt.NDArray[np.float16]  # (n, dim)
Int8Codes = npt.NDArray[np.int8]  # (n, dim)
BinaryCodes = npt.NDArray[np.uint8]  # (n, dim / 8), most significant bit first

# A hundred texts do not show the extremes. MiniLM, 4,748 held-out texts: without a margin 0.95% of their components lie
# outside and int8 finds 97.6% of the 10 exact nearest; x 1.25 0.15%, 99.3%; x 1.5 0.02%, 99.5%; x 3 none, 99.1%,
# for want of resolution. Ranges fitted on the corpus itself: 99.6%. (From 20 texts, x 1.5: 0.46%, 98.5%.)
MARGIN = 1.5


def normalise(vectors: Vectors) -> Vectors:
    """Scale rows to unit length; a zero row stays zero instead of becoming NaN."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def truncate_dimensions(vectors: Vectors, dimensions: int) -> Vectors:
    """Keep the first `dimensions` components and renormalise (Matryoshka, Kusupati et al. 2022, arXiv:2205.13147).

    Without renormalising, inner products of cut vectors are no cosines any more.
    """
    if not 1 <= dimensions <= vectors.shape[1]:
        raise ValueError(f"dimensions must be between 1 and {vectors.shape[1]}, not {dimensions}")
    if dimensions == vectors.shape[1]:
        return vectors
    return normalise(vectors[:, :dimensions])


def cosine(left: Vectors, right: Vectors) -> npt.NDArray[np.float64]:
    """Row by row cosine, (n,) float64; a NaN or a zero row gives NaN, which no floor lets through."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))


def to_float16(vectors: Vectors) -> Float16Codes:
    """float16: a cosine moves by less than 1e-4."""
    return vectors.astype(np.float16)


def binary(vectors: Vectors, threshold: float = 0.0) -> BinaryCodes:
    """One bit a dimension, 1 where the component is above the threshold: (n, dim) -> (n, dim / 8) uint8."""
    if vectors.shape[1] % 8:
        raise ValueError(f"binary codes need a dimension divisible by 8, not {vectors.shape[1]}")
    return np.packbits(vectors > threshold, axis=1)


def signs(codes: BinaryCodes) -> Vectors:
    """+1 and -1 for the bits: (n, dim / 8) -> (n, dim). The inner product of two is dim - 2 x Hamming distance."""
    return np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1


class Int8Scale(msgspec.Struct, frozen=True):
    """Symmetric int8 with one scale a dimension, fitted once and then frozen.

    sentence-transformers refits the ranges on every call, so its codes of the same text move with its neighbours.
    """

    scale: tuple[float, ...]

    @classmethod
    def fit(cls, vectors: Vectors) -> Int8Scale:
        """Ranges MARGIN wider than the largest component that the (n, dim) `vectors` have in each dimension."""
        largest = np.abs(vectors).max(axis=0) * MARGIN
        return cls(tuple((np.maximum(largest, 1e-9) / 127).astype(np.float32).tolist()))

    @property
    def dimension(self) -> int:
        return len(self.scale)

    @property
    def row(self) -> npt.NDArray[np.float32]:
        return np.asarray(self.scale, dtype=np.float32)

    def encode(self, vectors: Vectors) -> Int8Codes:
        return np.asarray(np.clip(np.rint(vectors / self.row), -127, 127), dtype=np.int8)

    def weigh(self, queries: Vectors) -> Vectors:
        """Queries stay float32: their inner product with codes, once weighed, is that with the vectors encoded."""
        return queries * self.row

    def clipped(self, vectors: Vectors) -> float:
        """The share of components that lie outside the ranges."""
        return float(np.mean(np.abs(vectors) > 127.5 * self.row))
