import numpy as np
import pytest
from scipy import stats

from embedship.monitor.drift.calibration import (
    FOLDS,
    LEAST_SKEWNESS,
    GammaTail,
    ScoreCalibration,
    _log_gamma_tail,
    _parts,
    calibrate,
)
from embedship.monitor.drift.sessions import index_of

D = 24
MIXING = np.random.default_rng(99).normal(size=(6, D))


def queries(random, n, size=1):
    topics = np.repeat(random.normal(size=(n // size, 6)), size, axis=0)
    own = random.normal(size=(n, 6))
    latent = topics if size == 1 else 0.9 * topics + 0.44 * own
    return (latent @ MIXING + 0.1 * random.normal(size=(n, D))).astype(np.float32)


def known(blocks, mean=0.0, deviation=1.0):
    return ScoreCalibration(500, (GammaTail(9.0, 0.0, 0.1),), 1.0, 1.0, 500.0, blocks, mean, deviation)


def test_the_interval_of_the_achieved_rate_holds_the_true_one():
    """Deviates of a perfect calibration: 95 of 100 intervals hold the promised chance."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        deviates = random.normal(size=20)
        found = known(20, deviates.mean(), deviates.std(ddof=1)).achieved(1e-4)
        assert found.lower < found.chance < found.upper
        held += found.lower <= 1e-4 <= found.upper
    assert 270 <= held <= 297


def test_the_interval_is_that_of_the_noncentral_t():
    found, root = known(20, 0.3, 1.2).achieved(0.01), np.sqrt(20)
    distance = (-stats.norm.ppf(0.01) - 0.3) / 1.2
    assert found.chance == pytest.approx(stats.norm.sf(distance))
    for end, share in ((found.lower, 0.025), (found.upper, 0.975)):
        assert stats.nct.cdf(distance * root, 19, stats.norm.isf(end) * root) == pytest.approx(share, abs=1e-6)


def test_more_blocks_make_it_narrower_and_worse_ones_move_it():
    few, many, worse = (known(*each).achieved(1e-3) for each in ((5,), (50,), (50, 1.0, 1.5)))
    assert few.upper > many.upper > 1e-3 > many.lower > few.lower
    assert worse.lower > 1e-3


@pytest.mark.parametrize("size", [1, 5])
def test_held_out_blocks_of_the_same_queries_keep_the_promise(size):
    random = np.random.default_rng(size)
    found = [calibrate(queries(random, 600, size), np.arange(600) // size, None, window=300, queries=600)
             for _ in range(6)]  # fmt: skip
    assert np.mean([each.held_out_mean for each in found]) == pytest.approx(0, abs=0.35)
    assert np.mean([each.held_out_deviation for each in found]) == pytest.approx(1, abs=0.35)
    assert sum(each.achieved(0.01).lower <= 0.01 <= each.achieved(0.01).upper for each in found) >= 4


def test_blocks_that_wander_are_said_not_to_keep_the_promise():
    """Each block of time has a topic of its own, and six are too few to learn that from: the measured rate says so."""
    random = np.random.default_rng(3)
    rows = queries(random, 600) + np.repeat(8 * random.normal(size=(6, D)), 100, axis=0).astype(np.float32)
    wandering = calibrate(rows, None, np.arange(600.0), window=100, queries=600)
    still = calibrate(queries(random, 600), None, np.arange(600.0), window=100, queries=600)
    assert wandering.held_out_blocks == still.held_out_blocks == 6
    assert wandering.achieved(1e-3).chance > 10 * still.achieved(1e-3).chance


@pytest.mark.parametrize("size", [1, 5, 20])
def test_no_session_is_cut_between_blocks_held_out(size):
    index = index_of(np.arange(800) // size, 800)
    parts, folds = _parts(index, np.zeros(800, dtype=np.intp), np.random.default_rng(0))
    assert len(np.unique(folds)) == FOLDS
    assert all(len(np.unique(parts[index == each])) == 1 for each in np.unique(index))
    assert all(len(np.unique(folds[parts == part])) == 1 for part in np.unique(parts))
    assert np.ptp(np.bincount(parts)) <= size, "equal blocks"


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0, 40.0, 4 / LEAST_SKEWNESS**2])
def test_the_tail_of_a_gamma_distribution_is_scipys(shape):
    mean, deviation = shape, np.sqrt(shape)
    x = np.concatenate([[-1.0, 0.0], mean + deviation * np.linspace(-6, 80, 800)])
    expected = stats.gamma.logsf(x, shape)
    assert expected.min() < -40, "far beyond what a chance as a float could say well"
    np.testing.assert_allclose(_log_gamma_tail(x, np.array([shape])), expected, rtol=1e-12, atol=1e-300)


def test_beyond_every_float_the_chance_is_0():
    assert _log_gamma_tail(np.array([1e9]), np.array([1.0])) == -np.inf


def test_a_fitted_tail_has_the_moments_of_the_scores():
    scores = np.random.default_rng(0).gamma(3.0, 2.0, 5_000) + 1.0
    tail = GammaTail.fit(scores)
    found = stats.gamma(tail.shape, tail.loc, tail.scale).stats(moments="mvs")
    np.testing.assert_allclose(found, [scores.mean(), scores.var(), stats.skew(scores)], rtol=1e-9)
