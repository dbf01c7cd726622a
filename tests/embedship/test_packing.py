from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedship.bundle import Bundle, ModelSpec, Similarity, VectorCode, VectorCodes
from embedship.errors import UsageError
from embedship.packing import quantize_vectors


@pytest.fixture
def frozen(bundle: Path) -> VectorCodes:
    return Bundle.open(bundle).manifest.codes


@pytest.fixture
def pipeline(bundle: Path) -> ModelSpec:
    return Bundle.open(bundle).manifest.pipeline


@pytest.fixture
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(3).normal(size=(5, 384)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_each_code_by_its_definition(pipeline: ModelSpec, frozen: VectorCodes, vectors: np.ndarray) -> None:
    (scale,) = (np.array(each.scale) for each in frozen.int8 if each.dimension == 384)
    expected = {
        VectorCode.FLOAT32: vectors,
        VectorCode.FLOAT16: vectors.astype(np.float16),
        VectorCode.INT8: np.clip(np.round(vectors / scale.astype(np.float32)), -127, 127).astype(np.int8),
        VectorCode.UBINARY: np.packbits(vectors > frozen.binary_threshold, axis=1),
    }
    for code in VectorCode:
        rows = quantize_vectors(vectors, code, pipeline, frozen)
        assert rows.dtype == expected[code].dtype
        assert np.array_equal(rows, expected[code]), code


def test_what_was_not_frozen_is_refused(pipeline: ModelSpec, frozen: VectorCodes, vectors: np.ndarray) -> None:
    with pytest.raises(UsageError, match="no int8 code for 100 dimensions"):
        quantize_vectors(vectors[:, :100], VectorCode.INT8, pipeline, frozen)
    with pytest.raises(ValueError, match="divisible by 8"):
        quantize_vectors(vectors[:, :100], VectorCode.UBINARY, pipeline, frozen)


@pytest.mark.parametrize("norm", [0.1, 1.0, 20.0])
def test_int8_of_a_model_that_does_not_normalise_is_of_the_direction(
    pipeline: ModelSpec, frozen: VectorCodes, vectors: np.ndarray, norm: float
) -> None:
    """Its ranges were fitted on unit rows: at a norm of 20 most components would be clipped, and nobody told."""
    raw = msgspec.structs.replace(pipeline, normalised=False, similarity=Similarity.COSINE)
    rows = quantize_vectors(np.float32(norm) * vectors, VectorCode.INT8, raw, frozen).astype(int)
    assert np.abs(rows - quantize_vectors(vectors, VectorCode.INT8, pipeline, frozen)).max() <= 1  # a rounding apart
    assert (quantize_vectors(vectors, VectorCode.FLOAT32, raw, frozen) == vectors).all()


def test_int8_of_a_model_of_the_inner_product_keeps_the_lengths(
    pipeline: ModelSpec, frozen: VectorCodes, vectors: np.ndarray
) -> None:
    raw = msgspec.structs.replace(pipeline, normalised=False, similarity=Similarity.DOT)
    long, short = (
        quantize_vectors(np.float32(norm) * vectors, VectorCode.INT8, raw, frozen).astype(int) for norm in (0.4, 0.2)
    )
    assert np.mean(np.abs(long - 2 * short) <= 2) > 0.98  # few dimensions are so narrow that they are clipped
