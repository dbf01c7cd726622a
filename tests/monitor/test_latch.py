"""A warning begins at once and ends only after evidence of recovery."""

import numpy as np
import pytest

from embedship.monitor.drift.detector import DriftReport, DriftRule
from embedship.monitor.drift.live import CALM_TESTS, LiveDrift
from embedship.monitor.latch import WarningLatch
from embedship.monitor.recall.rolling import RecallBaseline, RollingRecall
from embedship.monitor.state import SignalState

# One score per minute; the limit is 1.6. A topic grows to 5% of the queries, disappears, and then data is missing.
RECORDED = [1.1, 1.3, 1.7, 1.5, 1.6, 1.9, 1.4, 1.7, 1.2, 1.1, 1.0, 1.7, None, 1.2]
EXPECTED = ["ok", "ok", *["warn"] * 8, "ok", "warn", "unknown", "ok"]


class Recorded:
    """A detector that returns given reports."""

    def __init__(self, scores):
        self._scores = iter(scores)

    def evaluate(self, now):
        score = next(self._scores)
        state = SignalState.UNKNOWN if score is None else SignalState.WARN if score > 1.6 else SignalState.OK
        return DriftReport(
            state, DriftRule.CALIBRATED, f"score {score}", since=now if state is SignalState.WARN else 0.0
        )


def test_a_sequence_of_drift_does_not_flap():
    watch = LiveDrift(Recorded(RECORDED), None, 100, 0)
    reports = [watch.evaluate(60.0 * minute) for minute in range(len(RECORDED))]
    assert [report.state for report in reports] == EXPECTED
    assert {report.since for report in reports[2:10]} == {120.0}
    assert f"ends after {CALM_TESTS} tests" in reports[3].reason


def test_recall_is_not_ok_while_its_interval_is_below_the_baseline():
    random = np.random.default_rng(0)
    recall = RollingRecall(baseline=RecallBaseline.exact(0.993))
    for misses in random.binomial(10, 0.028, 400):
        recall.update(10 - int(misses), 10, now=1.0)
    assert recall.state is SignalState.WARN
    while recall.cusum:
        recall.update(10, 10, now=2.0)
    report = recall.report()
    assert report.upper < 0.993
    assert (report.state, report.since) == (SignalState.WARN, 1.0)
    after = RollingRecall(baseline=RecallBaseline.exact(0.993))
    after.restore(recall.memory())
    assert after.state is SignalState.WARN, "a restart mends nothing"
    for _ in range(500):
        recall.update(10, 10, now=3.0)
    assert recall.state is SignalState.OK


@pytest.mark.parametrize("calm", [1, 3])
def test_a_warning_ends_after_consecutive_recoveries(calm):
    latch = WarningLatch(calm)
    assert not latch.update(False, True)
    assert latch.update(True, False)
    assert [latch.update(False, True) for _ in range(calm)] == [True] * (calm - 1) + [False]
