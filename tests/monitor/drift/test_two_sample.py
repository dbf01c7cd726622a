import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from embedship.monitor.drift.two_sample import PooledSample, energy, mmd
from embedship.monitor.errors import InvalidVectors

TESTS = [mmd, energy]


def plain_mmd(x, y):
    rows = np.concatenate([x, y])
    scale = np.median(cdist(rows, rows)[np.triu_indices(len(rows), 1)])
    kernel = np.exp(-(cdist(rows, rows) ** 2) / (2 * scale**2))
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def plain_energy(x, y):
    return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()


@pytest.mark.parametrize(("test", "plain"), [(mmd, plain_mmd), (energy, plain_energy)])
@pytest.mark.parametrize("sessions", [False, True])
def test_the_statistic_is_the_one_written_plainly(test, plain, sessions):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 4)), random.normal(0.3, size=(20, 4))
    ids = (random.integers(0, 9, 30), random.integers(0, 6, 20)) if sessions else ()
    assert test(PooledSample.of(x, y, *ids), permutations=1).statistic == pytest.approx(plain(x, y))


def test_energy_in_one_dimension_is_scipys():
    random = np.random.default_rng(1)
    x, y = random.normal(size=25), random.normal(1, size=40)
    found = energy(PooledSample.of(x[:, None], y[:, None]), permutations=1).statistic
    assert found == pytest.approx(stats.energy_distance(x, y) ** 2)


@pytest.mark.parametrize("test", TESTS)
def test_the_pvalue_is_scipys(test):
    random = np.random.default_rng(2)
    x, y = random.normal(size=(25, 3)), random.normal(0.35, size=(25, 3))
    plain = {mmd: plain_mmd, energy: plain_energy}[test]
    rows = np.concatenate([x, y])
    expected = stats.permutation_test(
        (np.arange(25), np.arange(25, 50)),
        lambda i, j: plain(rows[i], rows[j]),
        n_resamples=500,
        vectorized=False,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    assert test(PooledSample.of(x, y), permutations=2_000).pvalue == pytest.approx(expected.pvalue, abs=0.05)
    assert 0.001 < expected.pvalue < 0.5


@pytest.mark.parametrize("test", TESTS)
def test_sessions_of_two_raise_no_alarms(test):
    """Both queries of a session are nearly the same: permuted by query, the tests reject 3 to 5 times too often."""
    random = np.random.default_rng(3)
    by_session = by_query = 0
    for seed in range(100):
        x, y = (np.repeat(random.normal(size=(25, 20)), 2, axis=0) + 0.1 * random.normal(size=(50, 20)) for _ in "xy")
        ids = np.repeat(np.arange(25), 2)
        by_session += test(PooledSample.of(x, y, ids, ids), permutations=99, seed=seed).pvalue <= 0.05
        by_query += test(PooledSample.of(x, y), permutations=99, seed=seed).pvalue <= 0.05
    assert by_session <= 11  # 5 expected, sd 2.2
    assert by_query >= 25


@pytest.mark.parametrize("test", TESTS)
def test_a_shift_has_the_least_pvalue(test):
    random = np.random.default_rng(4)
    pool = PooledSample.of(random.normal(size=(60, 5)), random.normal(2, size=(60, 5)))
    assert test(pool, permutations=199).pvalue == 1 / 200


@pytest.mark.parametrize(("x", "y"), [((3, 2), (3, 4)), ((0, 2), (3, 2)), ((3,), (3, 1))])
def test_samples_that_cannot_be_compared(x, y):
    with pytest.raises(InvalidVectors, match="cannot be compared"):
        PooledSample.of(np.ones(x), np.ones(y))
