import numpy as np
import pytest

from embedship.monitor.drift.projection import PlaneProjection

RANDOM = np.random.default_rng(4)
SPREAD = (RANDOM.normal(size=(500, 6)) * [9, 5, 1, 1, 1, 1] + 3).astype(np.float32)


def test_it_looks_along_what_varies_most():
    fitted = PlaneProjection.fit(SPREAD)
    assert np.abs(fitted.axes[0, 0]) > 0.99
    assert np.abs(fitted.axes[1, 1]) > 0.99
    assert fitted.explained == pytest.approx((81 + 25) / (81 + 25 + 4), abs=0.02)


def test_places_keep_distances_within_the_plane():
    places = PlaneProjection.fit(SPREAD).apply(SPREAD)
    assert places.shape == (500, 2)
    np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(places.std(axis=0), SPREAD.std(axis=0)[:2], rtol=0.02)


def test_the_order_of_rows_does_not_turn_it_round():
    np.testing.assert_allclose(PlaneProjection.fit(SPREAD[::-1]).axes, PlaneProjection.fit(SPREAD).axes, atol=1e-4)


@pytest.mark.parametrize("vectors", [np.ones((5, 3), np.float32), SPREAD[:, :1]])
def test_nothing_to_see_is_no_error(vectors):
    fitted = PlaneProjection.fit(vectors)
    assert np.isfinite(fitted.apply(vectors)).all()
    assert fitted.explained == pytest.approx(1.0)
