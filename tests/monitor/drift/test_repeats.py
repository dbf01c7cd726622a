import numpy as np
import pytest

from embedship.monitor.drift.repeats import NEAR, distinct_rows


def unit(random, n, d=64):
    rows = random.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_brute_force(rows):
    cosines = rows.astype(float) @ rows.astype(float).T
    return np.flatnonzero(~(np.triu(cosines, 1) > 1 - NEAR).any(axis=0))


def test_exact_repeats_keep_their_first_appearance():
    rows = np.array([[3, 1], [1, 2], [3, 1], [0.0, 5], [-0.0, 5], [1, 2]], dtype=np.float32)
    assert distinct_rows(rows).tolist() == [0, 1, 3]


@pytest.mark.parametrize("noise", [1e-8, 1e-6, 1e-4, 1.8e-4, 1e-2])
def test_near_repeats_equal_brute_force(noise):
    """64 dimensions: noise of 1.8e-4 each is a cosine of about 1 - 1e-6, where half of the pairs are near."""
    random = np.random.default_rng(0)
    once = unit(random, 150)
    again = once[random.integers(0, 150, 300)] + noise * random.normal(size=(300, 64)) / np.sqrt(64) * 8
    rows = np.concatenate([once, again])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert distinct_rows(rows).tolist() == by_brute_force(rows).tolist()


def test_ten_thousand_near_repeats_are_one():
    random = np.random.default_rng(0)
    rows = unit(random, 1) + 1e-6 * random.normal(size=(10_000, 64))
    assert distinct_rows(rows).tolist() == [0]


def test_zero_rows_and_one_dimension():
    assert distinct_rows(np.zeros((3, 5), dtype=np.float32)).tolist() == [0]
    assert distinct_rows(np.array([[1.0], [-2.0], [3.0]])).tolist() == [0, 1]
