"""Vectors -> rows in one of the codes that a bundle froze."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from embedship.bundle import Code, Codes
from embedship.codes import Vectors, binary, half


def packed(vectors: Vectors, code: Code, frozen: Codes) -> npt.NDArray[Any]:
    """(n, dim) float32 -> (n, dim) of the code's own dtype, or (n, dim / 8) uint8 for ubinary.

    Raises UsageError for int8 where no scale was frozen for the dimension, ValueError for ubinary where it is no
    multiple of 8.
    """
    match code:
        case Code.FLOAT32:
            return vectors
        case Code.FLOAT16:
            return half(vectors)
        case Code.INT8:
            return frozen.scale(vectors.shape[1]).encode(vectors)
        case Code.UBINARY:
            return binary(vectors, frozen.binary_threshold)
