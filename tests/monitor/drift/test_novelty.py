import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from embedship.monitor.drift.novelty import LANDMARKS, MOST, NEIGHBOURS, NoveltyWeights, distances

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(200, 8)).astype(np.float32)
NEW = RANDOM.normal(size=(50, 8)).astype(np.float32)


def test_distances_are_those_of_a_tree():
    expected = cKDTree(ROWS).query(NEW, k=NEIGHBOURS)[0].mean(axis=1)
    np.testing.assert_allclose(distances(NEW, ROWS), expected, rtol=1e-5)


def test_a_group_is_no_neighbour_of_its_own():
    groups = np.arange(200) // 4
    found = NoveltyWeights.fit(ROWS, groups)[0]
    apart = np.where(groups[:, None] == groups, np.inf, cdist(ROWS, ROWS))
    expected = np.sort(apart, axis=1)[:, :NEIGHBOURS].mean(axis=1)
    assert found.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert found.deviation == pytest.approx(expected.std(), rel=1e-4)


def test_without_drift_a_query_weighs_one():
    """Sessions of four near repeats: had each its session for neighbours, queries of now would all look new."""
    random = np.random.default_rng(1)

    def drawn(sessions):
        return np.repeat(random.normal(size=(sessions, 8)), 4, axis=0) + 0.05 * random.normal(size=(4 * sessions, 8))

    rows, now = drawn(100), drawn(100)
    known, weights = NoveltyWeights.fit(rows, np.arange(400) // 4)
    assert weights.mean() == pytest.approx(1, abs=0.05)
    assert known.weights(now).mean() == pytest.approx(1, abs=0.2)
    assert NoveltyWeights.fit(rows, np.arange(400))[0].weights(now).mean() > 1.5


def test_what_is_far_weighs_most_and_what_is_amid_nothing():
    known, _ = NoveltyWeights.fit(ROWS, np.arange(200))
    far, amid = np.full((1, 8), 1e3, np.float32), ROWS.mean(axis=0, keepdims=True)
    assert known.weights(far) == MOST
    assert 0 <= known.weights(amid) < 0.5


def test_memory_and_time_are_bounded_by_the_landmarks():
    rows = RANDOM.normal(size=(LANDMARKS + 500, 3)).astype(np.float32)
    known, weights = NoveltyWeights.fit(rows, np.arange(len(rows)))
    assert known.landmarks.shape == (LANDMARKS, 3)
    assert weights.shape == (len(rows),)


@pytest.mark.parametrize("groups", [np.zeros(30, dtype=np.intp), np.arange(30) % 2])
def test_few_groups_are_no_error(groups):
    known, weights = NoveltyWeights.fit(ROWS[:30], groups)
    assert np.isfinite(weights).all()
    assert np.isfinite(known.weights(NEW)).all()


def test_equal_rows_are_no_error():
    known, weights = NoveltyWeights.fit(np.ones((30, 8), np.float32), np.arange(30))
    assert np.isfinite(weights).all()
    assert known.weights(np.ones((1, 8), np.float32)) <= MOST
