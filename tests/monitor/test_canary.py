import numpy as np
import pytest

from embedship.monitor.canary import STALE, CanaryMonitor
from embedship.monitor.state import SignalState

GOLDEN = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
DEVICES = ["cpu:0", "cpu:1"]


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def canary(clock):
    return CanaryMonitor(GOLDEN, DEVICES, golden_floor=0.99, interval_seconds=30, clock=clock)


def noisy(amount, seed=1):
    return GOLDEN + np.random.default_rng(seed).normal(scale=amount, size=GOLDEN.shape).astype(np.float32)


def test_nothing_is_known_before_every_device_has_sung(canary):
    assert canary.report().state is SignalState.UNKNOWN
    canary.saw("cpu:0", GOLDEN)
    report = canary.report()
    assert (report.state, "cpu:1" in report.reason) == (SignalState.UNKNOWN, True)
    canary.saw("cpu:1", GOLDEN)
    assert canary.report().state is SignalState.OK


def test_the_worst_text_of_the_worst_device_decides(canary):
    damaged = GOLDEN.copy()
    damaged[3] = noisy(1.0)[3]
    canary.saw("cpu:0", GOLDEN)
    canary.saw("cpu:1", GOLDEN)
    canary.saw("cpu:1", damaged)
    report = canary.report()
    assert report.state is SignalState.WARN
    assert "cpu:1" in report.reason
    whole, broken = report.devices
    assert (whole.golden, whole.start) == pytest.approx((1, 1))
    a, b = damaged[3].astype(float), GOLDEN[3].astype(float)
    assert broken.golden == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert broken.texts == 10


def test_a_small_change_since_the_start_is_seen_though_the_floor_to_the_checkpoint_is_low(canary):
    quantised = noisy(0.05)  # what int8 costs: cosine 0.998
    for device in DEVICES:
        canary.saw(device, quantised)
    assert canary.report().state is SignalState.OK
    canary.saw("cpu:0", noisy(0.05, seed=2))
    report = canary.report()
    assert report.devices[0].golden > report.golden_floor
    assert report.state is SignalState.WARN


def test_a_nan_warns(canary):
    for device in DEVICES:
        canary.saw(device, GOLDEN)
    canary.saw("cpu:0", np.full_like(GOLDEN, np.nan))
    assert canary.report().state is SignalState.WARN


def test_silence_is_unknown_and_a_failure_does_not_end_it(canary, clock):
    for device in DEVICES:
        canary.saw(device, GOLDEN)
    clock.now += STALE * 30
    assert canary.report().state is SignalState.OK
    canary.saw("cpu:0", GOLDEN)
    canary.failed("cpu:1")
    clock.now += 1
    report = canary.report()
    assert (report.state, report.devices[1].failures) == (SignalState.UNKNOWN, 1)


def test_damage_is_not_forgotten_when_a_device_falls_silent(canary, clock):
    for device in DEVICES:
        canary.saw(device, noisy(1.0))
    clock.now += 10_000
    assert canary.report().state is SignalState.WARN
