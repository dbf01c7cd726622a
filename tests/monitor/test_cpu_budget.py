import pytest

from embedship.monitor.cpu_budget import BURST_SECONDS, CpuBudget


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("share", "cost"), [(0.02, 0.005), (0.02, 0.5), (0.5, 3.0)])
def test_over_time_no_more_than_the_share_is_spent(share, cost):
    clock = Clock()
    allowance = CpuBudget(share, clock)
    spent = 0.0
    while clock.now < 50 + 1_000:
        clock.now += 0.01
        if allowance.left:
            allowance.spend(cost)
            spent += cost
    assert spent <= share * (1_000 + BURST_SECONDS) + cost
    assert spent >= share * 1_000 - cost


def test_a_share_of_nothing_allows_nothing():
    clock = Clock()
    allowance = CpuBudget(0.0, clock)
    clock.now += 1e6
    assert not allowance.left


def test_a_clock_that_was_set_back_takes_nothing_away():
    clock = Clock()
    allowance = CpuBudget(1.0, clock)
    clock.now -= 1_000
    assert allowance.left
