import numpy as np
import pytest

from embedship.monitor.errors import InvalidSetting
from embedship.monitor.recall.rolling import RecallBaseline, RecallRule, RollingRecall, overlap
from embedship.monitor.state import SignalState


def feed(recall, found, queries, expected=10):
    for _ in range(queries):
        recall.update(found, expected)


def test_overlap_counts_hits_by_hand():
    exact = np.array([[1, 2, 3], [4, 5, -1], [-1, -1, -1], [7, 8, 9]])
    approximate = np.array([[3, 9, 1], [5, -1, -1], [-1, 2, -1], [7, 7, 7]])
    found, expected = overlap(approximate, exact)
    assert found.tolist() == [2, 1, 0, 1]
    assert expected.tolist() == [3, 2, 0, 3]


def test_totals_are_exact_counts():
    recall = RollingRecall()
    for found, expected in [(10, 10), (7, 10), (2, 3), (0, 0)]:
        recall.update(found, expected)
    assert (recall.queries, recall.found, recall.expected) == (3, 19, 23)
    assert recall.rolling == pytest.approx((1 + 0.7 + 2 / 3) / 3)


def test_rolling_forgets_after_five_windows():
    recall = RollingRecall(window=4, windows=5)
    feed(recall, 0, 7)
    feed(recall, 10, 19)
    assert recall.rolling == pytest.approx(0.95)
    feed(recall, 10, 1)
    assert recall.rolling == 1
    assert recall.queries == 27


def test_against_a_given_baseline():
    recall = RollingRecall(window=10, windows=5, baseline=RecallBaseline.exact(1.0), rule=RecallRule.NINETY_PERCENT)
    feed(recall, 9, 49)
    assert recall.state is SignalState.UNKNOWN
    assert "49 queries compared, 50 needed" in recall.report().reason
    feed(recall, 9, 1)
    assert recall.state is SignalState.OK  # 0.9 is not below 0.9 x 1
    feed(recall, 8, 9)
    assert recall.state is SignalState.OK  # only complete windows count
    feed(recall, 8, 1)
    assert recall.state is SignalState.WARN
    feed(recall, 10, 50)
    assert recall.state is SignalState.OK


def test_baseline_of_the_first_windows():
    recall = RollingRecall(window=10, windows=5, rule=RecallRule.NINETY_PERCENT)
    feed(recall, 10, 50)
    assert (recall.baseline, recall.state) == (1.0, SignalState.UNKNOWN)  # compared with itself
    feed(recall, 9, 10)
    assert recall.state is SignalState.OK
    feed(recall, 8, 40)
    assert (recall.baseline, recall.state) == (1.0, SignalState.WARN)  # (0.9 + 4 x 0.8) / 5


def test_the_cusum_sees_what_the_users_rule_cannot():
    random = np.random.default_rng(0)
    recall = RollingRecall(baseline=RecallBaseline.exact(0.97))
    for misses in random.binomial(10, 0.03, 99):
        recall.update(10 - int(misses), 10)
    assert recall.state is SignalState.UNKNOWN
    recall.update(10, 10)
    assert recall.state is SignalState.OK
    for at, misses in enumerate(random.binomial(10, 0.07, 400)):
        recall.update(10 - int(misses), 10, now=1_000.0 + at)
    report = recall.report()
    assert (report.state, report.rule, report.cusum) == (SignalState.WARN, RecallRule.CUSUM, True)
    assert not report.ninety_percent
    assert report.evidence >= report.evidence_limit == 100_000
    assert 1_000 < report.since < 1_300
    feed(recall, 10, 300)
    assert (recall.state, recall.since) == (SignalState.OK, 0.0)


def test_the_cusum_warns_of_a_collapse_before_a_window_is_complete():
    recall = RollingRecall(baseline=RecallBaseline.exact(1.0))
    feed(recall, 2, 5)
    assert recall.state is SignalState.WARN


def test_a_learned_baseline_allows_for_its_own_error():
    """500 queries that were lucky by one standard error must not make what follows an alarm."""
    random = np.random.default_rng(1)
    recall = RollingRecall()
    feed(recall, 10, 425)
    feed(recall, 8, 75)
    assert recall.state is SignalState.UNKNOWN
    for misses in random.binomial(10, 0.033, 5_000):
        recall.update(10 - int(misses), 10)
        assert not recall.cusum
    assert recall.baseline == 0.97
    assert recall.state is SignalState.OK


def test_nothing_found_from_the_start_is_no_fall_and_no_baseline():
    """An index that is being filled: what it finds afterwards is the baseline."""
    recall = RollingRecall(window=10, windows=5)
    feed(recall, 0, 70)
    assert (recall.baseline, recall.cusum, recall.state) == (None, False, SignalState.UNKNOWN)
    assert "nothing was found yet" in recall.report().reason
    feed(recall, 10, 60)
    assert (recall.baseline, recall.state) == (0.2, SignalState.OK)  # of the first windows that found something


def test_a_lucky_measurement_gives_no_false_alarms():
    """What comes lies below the baseline by no more than that measurement may be out."""
    random = np.random.default_rng(2)
    recall = RollingRecall(baseline=RecallBaseline(0.98, 0.97))
    for misses in random.binomial(10, 0.03, 20_000):
        recall.update(10 - int(misses), 10)
        assert not recall.cusum
    assert recall.report().baseline == 0.98


def test_a_provisional_baseline_gives_way_to_the_first_windows():
    recall = RollingRecall(window=10, windows=5, baseline=RecallBaseline(1.0, 0.9, provisional=True))
    feed(recall, 10, 10)
    assert recall.state is SignalState.OK  # it need not wait for five windows
    feed(recall, 9, 39)
    assert recall.baseline == 1.0
    feed(recall, 9, 1)
    assert (recall.baseline, recall.state) == (pytest.approx(0.92), SignalState.OK)
    feed(recall, 6, 50)
    assert recall.state is SignalState.WARN


def test_damage_from_the_start_is_not_learned_for_normal():
    recall = RollingRecall(window=10, windows=5, baseline=RecallBaseline(1.0, 0.9, provisional=True))
    feed(recall, 5, 200)
    assert (recall.baseline, recall.state) == (1.0, SignalState.WARN)


def test_what_was_learned_is_remembered_before_a_provisional_baseline():
    provisional = RecallBaseline(1.0, 0.9, provisional=True)
    before = RollingRecall(window=10, windows=5, baseline=provisional)
    feed(before, 9, 60)
    after = RollingRecall(window=10, windows=5, baseline=provisional)
    after.remember(before.memory())
    for each in (before, after):
        feed(each, 7, 5)
    assert after.report() == before.report()
    assert after.baseline == 0.9


def test_a_report_grows_old():
    recall = RollingRecall(window=10, windows=5, baseline=RecallBaseline.exact(1.0))
    assert recall.report().aged(1e9, 60) == recall.report()  # it says `unknown` already, and why
    for _ in range(10):
        recall.update(2, 10, now=1_000.0)
    assert recall.report().aged(1_059, 60).state is SignalState.WARN
    aged = recall.report().aged(1_060, 60)
    assert (aged.state, aged.since, aged.queries) == (SignalState.UNKNOWN, 0.0, 10)
    assert "no query compared in the last 60 s" in aged.reason


def test_report_before_and_after_evidence():
    recall = RollingRecall()
    empty = recall.report()
    assert (empty.rolling, empty.lower, empty.upper, empty.baseline, empty.queries) == (0, 0, 0, 0, 0)
    assert empty.state is SignalState.UNKNOWN
    feed(recall, 10, 50)
    feed(recall, 9, 50)
    report = recall.report()
    assert report.lower < report.rolling == 0.95 < report.upper
    assert report.upper - report.lower < 0.03
    assert (report.k, report.found, report.expected) == (10, 950, 1000)


@pytest.mark.parametrize(("found", "expected"), [(-1, 10), (4, 3), (11, 11)])
def test_impossible_counts_are_refused(found, expected):
    with pytest.raises(ValueError, match=f"found={found}, expected={expected}"):
        RollingRecall().update(found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 0},
        {"window": 0},
        {"windows": 0},
        {"baseline": RecallBaseline.exact(0.0)},
        {"baseline": RecallBaseline.exact(1.1)},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        RollingRecall(**settings)
