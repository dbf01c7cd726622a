from __future__ import annotations

import msgspec
import numpy as np

from embedship.serve.http import float_json


def test_every_float32_comes_back_bit_for_bit() -> None:
    random = np.random.default_rng(0)
    sizes = 10.0 ** random.uniform(-30, 3, (300, 1))
    vectors = (random.standard_normal((300, 384)) * sizes).astype(np.float32)
    text = msgspec.json.encode(float_json.to_json_rows(vectors))
    back = np.array(msgspec.json.decode(text), dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(back, vectors)


def test_unit_vectors_take_no_more_than_ten_digits() -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 384)).astype(np.float32) / 20
    text = msgspec.json.encode(float_json.to_json_rows(vectors)).decode()
    assert len(text) / vectors.size < 13.5  # "-0.0838270634," has 14
    assert msgspec.json.encode(vectors.tolist()).decode().count("") > 1.5 * len(text)


def test_zero_and_one_are_written_plainly() -> None:
    assert (
        msgspec.json.encode(float_json.to_json_rows(np.array([[0, 1, -1, 0.5]], dtype=np.float32)))
        == b"[[0.0,1.0,-1.0,0.5]]"
    )
