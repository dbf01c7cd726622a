"""What is computed here instead of by scipy.stats, against it."""

import numpy as np
import pytest
from scipy import stats

from embedship.monitor.calibration import LEAST_SKEWNESS, Tail, _log_gamma_tail


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
    tail = Tail.fit(scores)
    found = stats.gamma(tail.shape, tail.loc, tail.scale).stats(moments="mvs")
    np.testing.assert_allclose(found, [scores.mean(), scores.var(), stats.skew(scores)], rtol=1e-9)
