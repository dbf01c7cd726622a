"""Vector quantisation: encodes vectors in one of the codes that a bundle has frozen."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from embedship.bundle import ModelSpec, Similarity, VectorCode, VectorCodes
from embedship.codes import Vectors, binary, normalise, to_float16


def quantize_vectors(vectors: Vectors, code: VectorCode, pipeline: ModelSpec, frozen: VectorCodes) -> npt.NDArray[Any]:
    """Encode (n, dim) float32 vectors, possibly truncated: returns (n, dim) of the code's dtype or (n, dim / 8) uint8.

    The int8 ranges were fitted on unit vectors, except for models of the inner product. Longer vectors, of a model that
    does not normalise, would be clipped, so they are normalised first.

    Raises UsageError for int8 if no scale was frozen for the dimension, ValueError for ubinary if the dimension is not
    a multiple of 8.
    """
    match code:
        case VectorCode.FLOAT32:
            return vectors
        case VectorCode.FLOAT16:
            return to_float16(vectors)
        case VectorCode.INT8:
            normalise_first = not pipeline.normalised and pipeline.similarity is not Similarity.DOT
            return frozen.scale(vectors.shape[1]).encode(normalise(vectors) if normalise_first else vectors)
        case VectorCode.UBINARY:
            return binary(vectors, frozen.binary_threshold)
