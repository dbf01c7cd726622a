import numpy as np
import pytest
from scipy import stats

from embedship.monitor.drift import DriftDetector, Rule, _noise
from embedship.monitor.errors import InvalidSetting, InvalidVectors
from embedship.monitor.reference import Reference
from embedship.monitor.state import State
from embedship.monitor.statistics import ks_2samp

D = 64


def queries(random, n, shift=0.0, latent=3):
    """(n, D) unit rows with few effective dimensions, as embeddings of one domain have."""
    mixing = np.random.default_rng(99).normal(size=(latent, D))
    rows = random.normal(shift, size=(n, latent)) @ mixing + 0.01 * random.normal(size=(n, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def detector(reference, **settings):
    return DriftDetector(Reference.fit(reference, "abc"), **settings)


def test_a_drifted_topic_warns():
    random = np.random.default_rng(0)
    watch = detector(queries(random, 500), window=500)
    watch.update(np.concatenate([queries(random, 300), queries(random, 200, shift=3)]))
    report = watch.evaluate()
    assert report.state is State.WARN
    assert report.ten_percent
    assert report.calibrated
    assert report.dimensions_ratio >= report.bonferroni_ratio > 0.5
    assert report.statistic_median > report.statistic_noise


def test_false_alarms_without_drift():
    """3 effective dimensions move together: the 10% rule is noisy, the default is not."""
    random = np.random.default_rng(0)
    alarms = {Rule.TEN_PERCENT: 0, Rule.CALIBRATED: 0}
    for _ in range(100):
        watch = detector(queries(random, 400), window=400)
        watch.update(queries(random, 400))
        report = watch.evaluate()
        alarms[Rule.TEN_PERCENT] += report.ten_percent
        alarms[Rule.CALIBRATED] += report.calibrated
    assert alarms[Rule.TEN_PERCENT] >= 15
    assert alarms[Rule.CALIBRATED] <= 1


def test_the_numbers_are_those_of_the_ks_test():
    random = np.random.default_rng(1)
    reference, current = queries(random, 150), queries(random, 130, shift=0.3)
    watch = detector(reference)
    watch.update(current)
    report = watch.evaluate()
    statistic, pvalue = ks_2samp(reference, current)
    assert report.dimensions_ratio == (pvalue < 0.05).mean()
    assert report.bonferroni_ratio == (pvalue < 0.05 / D).mean()
    assert 0 < report.bonferroni_ratio < report.dimensions_ratio
    assert report.statistic_median == np.median(statistic)
    assert (report.samples, report.distinct, report.reference) == (130, 130, 150)


def test_the_rule_drives_the_state():
    """More than 10% of dimensions shifted, but the median is not: one rule warns, the other does not."""
    random = np.random.default_rng(2)
    reference, current = random.normal(size=(2, 300, D)).astype(np.float32)
    current[:, : D // 4] += 0.5
    states = {}
    for rule in Rule:
        watch = detector(reference, rule=rule)
        watch.update(current)
        report = watch.evaluate()
        assert (report.rule, report.ten_percent, report.calibrated) == (rule, True, False)
        assert report.bonferroni_ratio > 0.2
        states[rule] = report.state
    assert states == {Rule.TEN_PERCENT: State.WARN, Rule.CALIBRATED: State.OK}


def test_an_effect_without_significance_is_no_drift():
    """Every dimension is half a sigma off, smoothly sampled: D is 0.2 everywhere, and 60 queries cannot prove that."""
    random = np.random.default_rng(3)

    def normal(n, mean):
        return random.permuted(np.tile(stats.norm.ppf((np.arange(n) + 0.5) / n, mean), (D, 1)), axis=1).T.astype("f4")

    watch = detector(normal(200, 0), minimum=20)
    watch.update(normal(60, 0.5))
    report = watch.evaluate()
    assert report.statistic_median > report.statistic_noise
    assert report.bonferroni_ratio == 0
    assert report.state is State.OK


def test_the_floor_rises_for_small_windows_only():
    random = np.random.default_rng(4)
    reference = queries(random, 400)
    watch, plain = detector(reference), 1.5 * _noise(reference)
    watch.update(queries(random, 100))
    assert watch.evaluate().statistic_noise == pytest.approx(plain * np.sqrt((1 / 400 + 1 / 100) / (1 / 200 + 1 / 200)))
    watch.update(queries(random, 900))
    assert watch.evaluate().statistic_noise == pytest.approx(plain)


def test_repeats_are_tested_once():
    random = np.random.default_rng(5)
    watch = detector(queries(random, 300))
    once, repeated = queries(random, 150), queries(random, 1)
    watch.update(once)
    alone = watch.evaluate()
    watch.update(np.repeat(repeated, 600, axis=0))
    report = watch.evaluate()
    assert (report.samples, report.distinct) == (750, 151)
    assert report.state is alone.state is State.OK
    assert report.statistic_median == pytest.approx(alone.statistic_median, abs=0.02)


@pytest.mark.parametrize("sizes", [[100], [30] * 7, [250], [90, 500], [1] * 205])
def test_the_window_holds_the_last_queries(sizes):
    random = np.random.default_rng(6)
    reference = queries(random, 120)
    stream = queries(random, sum(sizes))
    watch = detector(reference, window=100)
    for part in np.split(stream, np.cumsum(sizes)[:-1]):
        watch.update(part)
    fresh = detector(reference, window=100)
    fresh.update(stream[-100:])
    assert watch.evaluate() == fresh.evaluate()
    assert watch.evaluate().samples == 100


def test_too_few_distinct_queries_are_unknown():
    random = np.random.default_rng(7)
    watch = detector(queries(random, 120), minimum=100)
    watch.update(np.repeat(queries(random, 99), 2, axis=0))
    report = watch.evaluate()
    assert report.state is State.UNKNOWN
    assert report.reason == "99 distinct queries, 100 needed"
    assert (report.samples, report.distinct, report.reference) == (198, 99, 120)
    assert report.dimensions_ratio == report.statistic_median == 0
    watch.update(queries(random, 1))
    assert watch.evaluate().state is not State.UNKNOWN


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (None, "no drift reference"),
        (Reference.fit(queries(np.random.default_rng(0), 200), "other"), "belongs to model other, not to abc"),
        (Reference.fit(queries(np.random.default_rng(0), 99), "abc"), "99 vectors in the reference, 100 needed"),
    ],
)
def test_without_a_usable_reference_nothing_is_ok(reference, reason):
    watch = DriftDetector(reference, fingerprint="abc")
    watch.update(queries(np.random.default_rng(0), 300))
    report = watch.evaluate()
    assert report.state is State.UNKNOWN
    assert reason in report.reason


def test_the_matching_fingerprint_is_tested():
    random = np.random.default_rng(0)
    watch = detector(queries(random, 200), fingerprint="abc")
    watch.update(queries(random, 200))
    assert watch.evaluate().state is State.OK


@pytest.mark.parametrize("vectors", [np.zeros((2, D + 1), np.float32), np.full((1, D), np.inf, np.float32)])
def test_update_refuses_bad_vectors(vectors):
    watch = detector(queries(np.random.default_rng(0), 200))
    with pytest.raises(InvalidVectors):
        watch.update(vectors)
    assert watch.evaluate().samples == 0


@pytest.mark.parametrize("settings", [{"minimum": 1}, {"window": 50, "minimum": 51}])
def test_settings_out_of_range(settings):
    with pytest.raises(InvalidSetting, match="at least"):
        DriftDetector(None, **settings)
