import numpy as np
import pytest

from embedship.monitor.cpu_budget import CpuBudget
from embedship.monitor.recall.rolling import RollingRecall
from embedship.monitor.recall.shadow import ShadowRecall

VECTORS = np.ones((4, 8), dtype=np.float32)
IDS = np.tile(np.arange(10), (4, 1))


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def exact(vectors, k):
    return np.tile(np.arange(k), (len(vectors), 1))


def test_a_spent_allowance_skips_and_counts_until_it_is_earned_again():
    clock = Clock()
    allowance = CpuBudget(0.02, clock)
    shadow = ShadowRecall(exact, RollingRecall(), allowance)
    shadow.compare(VECTORS, IDS, now=5.0)
    allowance.spend(1.0)
    shadow.compare(VECTORS, IDS, now=6.0)
    report = shadow.report()
    assert (report.recall.queries, report.skipped) == (4, 4)
    assert report.seconds > 0
    clock.now += 60
    shadow.compare(VECTORS, IDS, now=7.0)
    assert (shadow.report().recall.queries, shadow.report().skipped) == (8, 4)


def test_a_search_that_fails_is_paid_for():
    def broken(vectors, k):
        raise RuntimeError("index is gone")

    shadow = ShadowRecall(broken, RollingRecall(), CpuBudget(1.0))
    with pytest.raises(RuntimeError):
        shadow.compare(VECTORS, IDS, now=5.0)
    assert shadow.report().seconds > 0
