import numpy as np
import pytest

from embedship.monitor.errors import InvalidSetting
from embedship.monitor.recall.cusum import Cusum


def recalls(random, mean, n, together=10.0):
    """Recall of n queries: beta-binomial, for the ten slots of a query fail together."""
    miss = 1 - mean
    return 1 - random.binomial(10, random.beta(miss * together, mean * together, n)) / 10


def first_alarm(cusum, stream):
    for at, recall in enumerate(stream, start=1):
        cusum.update(recall)
        if cusum.alarm:
            return at
    return None


def test_evidence_by_hand():
    """One query after the other, each bet for itself, as the paper has it."""
    cusum = Cusum(baseline=0.9, run_length=100)
    evidence = [0.0] * 8
    for recall in (1.0, 0.5, 0.8):
        for i, bet in enumerate(np.geomspace(0.05, 0.9, 8) / 0.1):
            evidence[i] = (evidence[i] + 1) * (1 + bet * ((1 - recall) - 0.1))
        cusum.update(recall)
    assert cusum.evidence == pytest.approx(np.mean(evidence))
    assert not cusum.alarm


@pytest.mark.parametrize("baseline", [0.95, 0.97, 0.99])
def test_a_fall_of_three_points_is_found_within_400_queries(baseline):
    random = np.random.default_rng(0)
    found = [first_alarm(Cusum(baseline), recalls(random, baseline - 0.03, 2_000)) for _ in range(25)]
    assert np.median(found) <= 400


@pytest.mark.parametrize("together", [0.5, 10.0, 1e6])
def test_the_run_length_is_kept_whatever_the_distribution(together):
    """At a run length of 1,000 and recall at its baseline, 40 x 1,000 queries may alarm 40 times; they do less."""
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(40):
        cusum = Cusum(0.95, run_length=1_000)
        for recall in recalls(random, 0.95, 1_000, together):
            cusum.update(recall)
            if cusum.alarm:
                alarms += 1
                cusum = Cusum(0.95, run_length=1_000)
    assert alarms <= 40


def test_the_alarm_ends_after_recovery():
    cusum = Cusum(0.97)
    assert first_alarm(cusum, [0.5] * 50) <= 10
    for _ in range(200):
        cusum.update(1.0)
    assert not cusum.alarm


def test_a_perfect_baseline_needs_more_than_one_miss():
    assert first_alarm(Cusum(1.0), [0.9, *[1.0] * 500]) is None


@pytest.mark.parametrize("settings", [{"baseline": 0}, {"baseline": 1.1}, {"baseline": 0.9, "run_length": 0.5}])
def test_settings_out_of_range(settings):
    with pytest.raises(InvalidSetting):
        Cusum(**settings)
