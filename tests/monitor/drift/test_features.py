import numpy as np
import pytest
from scipy.linalg import inv, sqrtm
from scipy.spatial import cKDTree

from embedship.monitor.drift.features import PLAIN, ShiftFeatures, crossfit
from embedship.monitor.drift.metric import RIDGE
from embedship.monitor.drift.novelty import MOST, NEIGHBOURS

D = 12
MIXING = np.random.default_rng(9).normal(size=(D, D)) * np.linspace(0.2, 2, D)


def drawn(random, n):
    return (random.normal(size=(n, D)) @ MIXING).astype(np.float32)


def size(rows):
    return np.linalg.norm(np.cov(rows.T, bias=True))


def test_the_squared_mean_is_that_of_the_formula():
    """The formula with scipy, row by row: weights by a k-d tree, whitening by the matrix root, both parts scaled."""
    random = np.random.default_rng(0)
    rows, now = drawn(random, 300).astype(np.float64), drawn(random, 80).astype(np.float64)
    tree, centre = cKDTree(rows), rows.mean(axis=0)
    own = tree.query(rows, k=NEIGHBOURS + 1)[0][:, 1:].mean(axis=1)
    weigh = lambda far: np.clip(1 + (far - own.mean()) / own.std(), 0, MOST)[:, None]  # noqa: E731
    weighted = (rows - centre) * weigh(own)
    later = (now - centre) * weigh(tree.query(now, k=NEIGHBOURS)[0].mean(axis=1))
    covariance = np.cov(weighted.T, bias=True)
    root = np.real(sqrtm(inv(covariance + RIDGE * np.trace(covariance) / D * np.eye(D))))
    shift = (later.mean(axis=0) - weighted.mean(axis=0)) @ root
    plain = now.mean(axis=0) - centre
    expected = (shift**2).sum() / size(weighted @ root) + PLAIN * (plain**2).sum() / size(rows)
    found = ShiftFeatures.fit(rows.astype(np.float32), np.arange(300)).apply(now.astype(np.float32))
    assert found.shape == (80, 2 * D)
    assert (found.mean(axis=0) ** 2).sum() == pytest.approx(expected, rel=1e-3)


def test_the_mean_is_zero_without_drift_and_both_parts_have_equal_variance():
    random = np.random.default_rng(1)
    features = ShiftFeatures.fit(drawn(random, 1_000), np.arange(1_000))
    squares = np.array([features.apply(drawn(random, 200)).mean(axis=0) ** 2 for _ in range(60)])
    first, second = squares[:, :D].sum(axis=1), squares[:, D:].sum(axis=1)
    assert squares.sum(axis=1).mean() < 0.1
    assert second.std() / first.std() == pytest.approx(PLAIN, rel=0.4)


def test_a_new_direction_counts_more_the_farther_its_queries_are():
    """Two equal shifts of the mean: all queries shifted slightly, or a few far away. The few are a new topic."""
    random = np.random.default_rng(2)
    direction = np.zeros(D, np.float32)
    direction[0] = 1
    features = ShiftFeatures.fit(random.normal(size=(1_000, D)).astype(np.float32), np.arange(1_000))
    base = random.normal(size=(500, D)).astype(np.float32)
    few = base.copy()
    few[:25] += 6 * direction
    found = {}
    for name, rows in (("none", base), ("all", base + 0.3 * direction), ("few", few)):
        found[name] = (features.apply(rows)[:, :D].mean(axis=0) ** 2).sum()
    assert found["few"] - found["none"] > 2 * (found["all"] - found["none"])


def test_rounding_of_every_query_is_no_shift():
    """Another variant moves each query in a random direction: all look slightly newer, but agree on no direction."""
    random = np.random.default_rng(3)
    rows = drawn(random, 1_000)
    features = ShiftFeatures.fit(rows, np.arange(1_000))
    now = drawn(random, 500)
    rough = now + random.normal(scale=1.5, size=now.shape).astype(np.float32)
    assert features.novelty.weights(rough).mean() > features.novelty.weights(now).mean() + 0.1
    square = lambda each: (features.apply(each).mean(axis=0) ** 2).sum()  # noqa: E731
    assert square(rough) < 2 * square(now)


def test_a_fold_is_mapped_by_the_others_alone():
    random = np.random.default_rng(4)
    rows, folds = drawn(random, 200), np.arange(200) % 4
    mapped = crossfit(rows, folds, np.arange(200))
    expected = ShiftFeatures.fit(rows[folds != 2], np.arange(150)).apply(rows[folds == 2])
    np.testing.assert_array_equal(mapped[folds == 2], expected)
