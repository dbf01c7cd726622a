"""Vectors -> rows in one of the codes that a bundle froze."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from embedship.bundle import ModelSpec, Similarity, VectorCode, VectorCodes
from embedship.codes import Vectors, binary, normalise, to_float16


def quantize_vectors(vectors: Vectors, code: VectorCode, pipeline: ModelSpec, frozen: VectorCodes) -> npt.NDArray[Any]:
    """(n, dim) float32, as the model gives them or cut -> (n, dim) of the code's own dtype, or (n, dim / 8) uint8.

    The int8 ranges were fitted on unit rows, but for a model of the inner product: rows that are longer, of a model
    that does not normalise, would be clipped at both ends. So their codes are of their direction.

    Raises UsageError for int8 where no scale was frozen for the dimension, ValueError for ubinary where it is no
    multiple of 8.
    """
    match code:
        case VectorCode.FLOAT32:
            return vectors
        case VectorCode.FLOAT16:
            return to_float16(vectors)
        case VectorCode.INT8:
            long = not pipeline.normalised and pipeline.similarity is not Similarity.DOT
            return frozen.scale(vectors.shape[1]).encode(normalise(vectors) if long else vectors)
        case VectorCode.UBINARY:
            return binary(vectors, frozen.binary_threshold)
