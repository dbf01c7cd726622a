import numpy as np
import pytest

from embedship.monitor.recall.hard_negatives import SAME, hard_negatives

RANDOM = np.random.default_rng(3)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def near(vector, cosine):
    """A unit vector with the given cosine to another."""
    across = RANDOM.normal(size=vector.shape)
    across = unit(across - (across @ vector) * vector)
    return (cosine * vector + np.sqrt(1 - cosine**2) * across).astype(np.float32)


ANSWER = unit(RANDOM.normal(size=32))
OTHERS = unit(RANDOM.normal(size=(4, 32)))
COPY, VERSION, NEAR = near(ANSWER, 1.0), near(ANSWER, SAME + 0.01), near(ANSWER, SAME - 0.01)
VECTORS = np.stack([ANSWER, COPY, VERSION, NEAR, *OTHERS])
ROWS = np.array([40, 41, 42, 43, 10, 11, 12, 13])


def test_the_nearest_wrong_document_that_is_no_copy_comes_first():
    assert hard_negatives(ROWS, VECTORS, {40}, ANSWER[None], 3) == [43, 10, 11]


def test_fewer_are_returned_if_there_are_not_enough():
    assert hard_negatives(ROWS, VECTORS, {40, 12}, ANSWER[None], 99) == [43, 10, 11, 13]


def test_relevant_documents_are_left_out_at_any_distance():
    assert 13 not in hard_negatives(ROWS, VECTORS, {13}, OTHERS[3:], 99)


def test_a_copy_of_any_answer_is_left_out():
    assert hard_negatives(ROWS, VECTORS, {40, 10}, np.stack([ANSWER, OTHERS[0]]), 2) == [43, 11]


def test_the_first_of_two_similar_wrong_documents_is_used():
    twice = np.stack([OTHERS[0], near(OTHERS[0], 0.999), OTHERS[1]])
    assert hard_negatives(np.array([5, 6, 7]), twice, set(), ANSWER[None], 9) == [5, 7]


@pytest.mark.parametrize("count", [0, 1])
def test_at_most_count_are_returned(count):
    assert len(hard_negatives(ROWS, VECTORS, set(), ANSWER[None], count)) == count
