import numpy as np
import pytest

from embedship.monitor.recall.history import FIRST, WINDOW, course

RANDOM = np.random.default_rng(2)
STEADY = RANDOM.binomial(10, 0.95, 2_000) / 10


def at(recalls):
    return np.arange(len(recalls), dtype=float)


def test_a_steady_recall_raises_no_alarm():
    found = course(STEADY, at(STEADY))
    assert (found.alarms, found.ninety_percent) == ((), ())
    assert len(found.stretches) == 20
    assert found.baseline == pytest.approx(STEADY[: FIRST * WINDOW].mean())
    assert found.stretches[3].mean == pytest.approx(STEADY[300:400].mean())
    assert found.stretches[3].lower < found.stretches[3].mean < found.stretches[3].upper


def test_a_fall_is_one_alarm_soon_after_it():
    fallen = np.concatenate([STEADY[:1_000], RANDOM.binomial(10, 0.85, 1_000) / 10])
    found = course(fallen, at(fallen))
    assert len(found.alarms) == 1
    assert 1_000 < found.alarms[0] < 1_400
    assert len(found.ninety_percent) == 1
    assert found.ninety_percent[0] > found.alarms[0], "the users' rule sees it later"


def test_a_given_baseline_counts_from_the_first_query():
    low = RANDOM.binomial(10, 0.8, 400) / 10
    found = course(low, at(low), baseline=0.95)
    assert found.baseline == 0.95
    assert len(found.alarms) == 1
    assert found.alarms[0] < 200
    assert course(low, at(low)) is None, "too few to learn a baseline from and to judge"


def test_what_was_not_judged_is_left_out():
    holes = np.repeat(STEADY, 2)
    holes[1::2] = np.nan
    found = course(holes, at(holes))
    assert [each.mean for each in found.stretches] == [each.mean for each in course(STEADY, at(STEADY)).stretches]
    assert found.stretches[0].at == 198.0
