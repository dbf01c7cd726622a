import numpy as np
import pytest

from embedship.monitor.drift.sessions import effective_size, index_of, plain_variance, totals
from embedship.monitor.errors import InvalidVectors


def clustered(random, sessions, size, correlation, d=200):
    own, shared = random.normal(size=(sessions, size, d)), random.normal(size=(sessions, 1, d))
    rows = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return rows.reshape(-1, d), np.repeat(np.arange(sessions), size)


def test_sessions_are_numbered_and_negative_ids_are_alone():
    assert index_of(None, 3).tolist() == [0, 1, 2]
    index = index_of(np.array([7, -1, 7, -1, 2]), 5)
    assert index[0] == index[2]
    assert len(set(index.tolist())) == 4
    with pytest.raises(InvalidVectors, match="3 queries need 3 session ids"):
        index_of(np.array([1, 2]), 3)


def test_totals_add_up_by_session():
    rows = np.array([[1.0, 0], [2, 0], [4, 1]])
    summed = totals(rows, np.array([1, 0, 1]))
    assert summed.sums.tolist() == [[2, 0], [5, 1]]
    assert summed.sizes.tolist() == [1, 2]
    np.testing.assert_allclose(summed.mean, rows.mean(axis=0))


def test_without_sessions_the_variance_is_that_of_the_mean():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    expected = rows.var(axis=0, ddof=1).sum() / 40
    assert totals(rows, np.arange(40)).variance == pytest.approx(expected)
    assert plain_variance(rows) == pytest.approx(expected)


@pytest.mark.parametrize(("size", "correlation"), [(2, 0.5), (5, 0.3), (10, 0.8)])
def test_effective_size_is_kish(size, correlation):
    rows, sessions = clustered(np.random.default_rng(0), 400, size, correlation)
    kish = len(rows) / (1 + (size - 1) * correlation)
    assert effective_size(rows, sessions) == pytest.approx(kish, rel=0.06)
    assert effective_size(rows, None) == pytest.approx(len(rows))


def test_the_variance_is_what_means_of_such_sessions_vary_by():
    random = np.random.default_rng(1)
    samples = [clustered(random, 30, 4, 0.6, d=50) for _ in range(300)]
    seen = np.array([rows.mean(axis=0) for rows, _ in samples]).var(axis=0).sum()
    assert np.mean([totals(rows, ids).variance for rows, ids in samples]) == pytest.approx(seen, rel=0.05)
