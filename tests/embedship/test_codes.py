from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedship.codes import Int8Scale, Vectors, binary, cosine, normalise, truncate_dimensions


def unit(n: int, dimension: int, seed: int = 0) -> Vectors:
    return normalise(np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32))


@given(st.integers(1, 32))
def test_a_cut_vector_has_unit_length_again_and_the_same_direction(dimensions: int) -> None:
    vectors = unit(5, 32)
    short = truncate_dimensions(vectors, dimensions)
    assert short.shape == (5, dimensions)
    assert short.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(cosine(short, vectors[:, :dimensions]), 1, rtol=1e-6)


@pytest.mark.parametrize("dimensions", [0, -1, 33])
def test_a_cut_outside_the_vector_is_refused(dimensions: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 32"):
        truncate_dimensions(unit(1, 32), dimensions)


def test_a_zero_row_stays_zero() -> None:
    assert not normalise(np.zeros((1, 4), np.float32)).any()


def test_nan_and_zero_rows_pass_no_floor() -> None:
    left = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    right = np.array([[np.nan, 0.0], [1.0, 0.0]], np.float32)
    assert np.isnan(cosine(left, right)).all()


def test_binary_codes_are_those_of_sentence_transformers() -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    vectors = unit(20, 64)
    np.testing.assert_array_equal(binary(vectors), quantize_embeddings(vectors, "ubinary"))


def test_binary_codes_need_whole_bytes() -> None:
    with pytest.raises(ValueError, match="divisible by 8"):
        binary(unit(1, 12))


def test_int8_is_frozen_and_within_half_a_step() -> None:
    vectors = unit(200, 32)
    scale = Int8Scale.fit(vectors)
    codes = scale.encode(vectors)
    assert codes.dtype == np.int8
    assert (np.abs(codes * scale.row - vectors) <= scale.row / 2 + 1e-7).all()
    np.testing.assert_array_equal(scale.encode(vectors[:1]), codes[:1])


def test_int8_clips_what_lies_outside_its_range() -> None:
    scale = Int8Scale.fit(unit(10, 4))
    assert scale.encode(np.full((1, 4), 100.0, np.float32)).tolist() == [[127] * 4]
