import numpy as np
import pytest

from embedship.monitor.recall.hard_negatives import SAME, hard_negatives

RANDOM = np.random.default_rng(3)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def near(vector, cosine):
    """A unit vector with this cosine to it."""
    across = RANDOM.normal(size=vector.shape)
    across = unit(across - (across @ vector) * vector)
    return (cosine * vector + np.sqrt(1 - cosine**2) * across).astype(np.float32)


ANSWER = unit(RANDOM.normal(size=32))
OTHERS = unit(RANDOM.normal(size=(4, 32)))
COPY, VERSION, NEAR = near(ANSWER, 1.0), near(ANSWER, SAME + 0.01), near(ANSWER, SAME - 0.01)
VECTORS = np.stack([ANSWER, COPY, VERSION, NEAR, *OTHERS])
ROWS = np.array([40, 41, 42, 43, 10, 11, 12, 13])


def test_the_nearest_that_is_neither_right_nor_the_same_comes_first():
    assert hard_negatives(ROWS, VECTORS, {40}, ANSWER[None], 3) == [43, 10, 11]


def test_all_that_is_left_if_more_are_wanted():
    assert hard_negatives(ROWS, VECTORS, {40, 12}, ANSWER[None], 99) == [43, 10, 11, 13]


def test_what_is_right_is_left_out_however_far_it_lies():
    assert 13 not in hard_negatives(ROWS, VECTORS, {13}, OTHERS[3:], 99)


def test_a_copy_of_any_answer_is_left_out():
    assert hard_negatives(ROWS, VECTORS, {40, 10}, np.stack([ANSWER, OTHERS[0]]), 2) == [43, 11]


def test_of_two_wrong_ones_alike_the_first_is_taken():
    twice = np.stack([OTHERS[0], near(OTHERS[0], 0.999), OTHERS[1]])
    assert hard_negatives(np.array([5, 6, 7]), twice, set(), ANSWER[None], 9) == [5, 7]


@pytest.mark.parametrize("count", [0, 1])
def test_no_more_than_asked_for(count):
    assert len(hard_negatives(ROWS, VECTORS, set(), ANSWER[None], count)) == count
