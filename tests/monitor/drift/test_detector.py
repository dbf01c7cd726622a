import dataclasses

import numpy as np
import pytest

from embedship import Bundle, Encoder, stdlib_docs
from embedship.monitor.drift.detector import DriftDetector, DriftRule, _noise
from embedship.monitor.drift.false_alarms import FalseAlarms
from embedship.monitor.drift.reference import DriftReference, ThresholdSettings
from embedship.monitor.errors import InvalidSetting, InvalidVectors
from embedship.monitor.state import SignalState
from embedship.monitor.statistics import ks_2samp

D = 64


def queries(random, n, shift=0.0, latent=3):
    """Unit rows (n, D) with few effective dimensions, like embeddings of one domain."""
    mixing = np.random.default_rng(99).normal(size=(latent, D))
    rows = random.normal(shift, size=(n, latent)) @ mixing + 0.01 * random.normal(size=(n, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def detector(reference, **settings):
    return DriftDetector(DriftReference.fit(reference, "abc"), **settings)


def test_a_drifted_topic_warns():
    random = np.random.default_rng(0)
    watch = detector(queries(random, 500), window=500)
    watch.update(np.concatenate([queries(random, 300), queries(random, 200, shift=3)]))
    report = watch.evaluate()
    assert report.state is SignalState.WARN
    assert report.ten_percent
    assert report.calibrated
    assert report.score > report.threshold
    assert report.pvalue < 1e-4
    assert report.effect > report.effect_floor
    assert report.dimensions_ratio >= report.bonferroni_ratio > 0.5
    assert report.statistic_median > report.statistic_noise


def test_false_alarms_without_drift():
    """3 effective dimensions move together: the 10% rule fires often, the default rule as often as promised."""
    random = np.random.default_rng(0)
    alarms = {DriftRule.TEN_PERCENT: 0, DriftRule.CALIBRATED: 0}
    for _ in range(6):
        watch = detector(queries(random, 400), window=400, false_alarms=FalseAlarms(1, 6_000), interval_seconds=60)
        for _ in range(15):
            watch.update(queries(random, 400))
            report = watch.evaluate()
            alarms[DriftRule.TEN_PERCENT] += report.ten_percent
            alarms[DriftRule.CALIBRATED] += report.calibrated
    assert alarms[DriftRule.TEN_PERCENT] >= 10
    assert alarms[DriftRule.CALIBRATED] <= 4  # 0.9 promised


@pytest.mark.parametrize("size", [2, 5, 10])
def test_false_alarms_of_sessions(size):
    """Related queries: without drift the score is about 1, whether the window's sessions are known or not."""
    random = np.random.default_rng(size)
    ids = np.repeat(np.arange(600 // size), size)
    scores = {"known": [], "unknown": [], "naive": []}
    for _ in range(3):
        reference = DriftReference.fit(related(random, 600, size), "abc", sessions=ids, window=600)
        session_aware, naive = (
            DriftDetector(each, window=600)
            for each in (reference, DriftReference.fit(reference.vectors, "abc", window=600))
        )
        for _ in range(8):
            window = related(random, 600, size)
            for name, watch, given in (
                ("known", session_aware, ids),
                ("unknown", session_aware, None),
                ("naive", naive, None),
            ):
                watch.update(window, given)
                scores[name].append(watch.evaluate().score)
    limit = reference.calibration.threshold(0.01)
    for name in ("known", "unknown"):
        assert np.mean(scores[name]) == pytest.approx(1, abs=0.25)
        assert np.sum(np.array(scores[name]) > limit) <= 3  # 0.24 promised
    assert np.mean(scores["naive"]) > 0.6 * size


def related(random, n, size):
    topics = np.repeat(queries(random, n // size, latent=20), size, axis=0)
    return (topics + 0.02 * random.normal(size=topics.shape)).astype(np.float32)


def test_differences_between_blocks_of_time_are_no_drift():
    """Queries differ by time of day: a reference with times allows for it, one without times reports drift."""
    random = np.random.default_rng(0)

    def day(half_days):
        shifts = np.where(np.arange(half_days) % 2, 0.25, -0.25)
        rows = np.concatenate([queries(random, 250, shift=shift) for shift in shifts])
        return rows, np.arange(len(rows)) * 43_200 / 250

    rows, times = day(8)
    states = []
    for given in (times, None):
        watch = DriftDetector(DriftReference.fit(rows, "abc", times=given, window=250), window=250)
        watch.update(queries(random, 250, shift=0.25))
        states.append(watch.evaluate().state)
    assert states == [SignalState.OK, SignalState.WARN]
    watch = DriftDetector(DriftReference.fit(rows, "abc", times=times, window=250), window=250)
    watch.update(queries(random, 250, shift=2))
    assert watch.evaluate().state is SignalState.WARN


def test_an_old_window_is_unknown_and_a_run_of_warnings_has_a_beginning():
    random = np.random.default_rng(1)
    watch = detector(queries(random, 300), window=300, stale_seconds=600)
    watch.update(queries(random, 300), times=np.full(300, 1_000.0))
    assert (watch.evaluate(now=1_600).state, watch.evaluate(now=1_600).since) == (SignalState.OK, 0)
    old = watch.evaluate(now=1_601)
    assert (old.state, old.reason) == (SignalState.UNKNOWN, "the last query is 601 seconds old")
    watch.update(queries(random, 300, shift=3), times=np.full(300, 2_000.0))
    assert [watch.evaluate(now).since for now in (2_010.0, 2_020.0)] == [2_010, 2_010]
    watch.update(queries(random, 300), times=np.full(300, 2_100.0))
    assert watch.evaluate(2_110.0).since == 0


def test_significance_without_an_effect_is_no_drift():
    """With a budget of one false alarm per two checks the score exceeds its threshold soon; the effect does not."""
    random = np.random.default_rng(2)
    watch = detector(queries(random, 400), window=400, false_alarms=FalseAlarms(1, 120))
    reports = []
    for _ in range(12):
        watch.update(queries(random, 400))
        reports.append(watch.evaluate())
    small = [report for report in reports if report.score > report.threshold and report.effect < report.effect_floor]
    assert small
    assert all(report.state is SignalState.OK for report in small)


def test_a_known_variant_is_no_drift_and_an_unknown_one_needs_more():
    random = np.random.default_rng(3)
    rows, moved = queries(random, 800), np.float32(0.01)
    reference = DriftReference.fit(rows[:400], "abc", variants={"int8": rows[:400] + moved}, window=400)
    reports = {}
    for variant in ("int8", None, "unheard"):
        watch = DriftDetector(reference, variant=variant, window=400)
        watch.update(rows[400:] + moved)
        reports[variant] = watch.evaluate()
    assert reports["int8"].state is SignalState.OK
    assert reports[None].score > 2 * reports["int8"].score
    assert reports["unheard"].effect_floor > reports[None].effect_floor


@pytest.mark.parametrize("variant", ["onnx-int8", "openvino-int8"])
def test_int8_queries_against_a_float32_reference_are_no_drift(bundle, variant):
    """Real vectors: int8 shifts the mean about as much as chance, which is enough for an alarm without an offset."""
    random = np.random.default_rng(0)
    texts = random.permutation([entry.summary for entry in stdlib_docs.entries()])[:900].tolist()
    vectors = {}
    for each in ("onnx", variant):
        with Encoder.open(Bundle.open(bundle), variant=each) as encoder:
            vectors[each] = encoder.encode(texts)
    reference = DriftReference.fit(vectors["onnx"][:500], "abc", variants={variant: vectors[variant][:500]}, window=300)
    known, ignored = (DriftDetector(reference, variant=each, window=300) for each in (variant, None))
    scores = []
    for _ in range(6):
        window = vectors[variant][500:][random.permutation(400)[:300]]
        known.update(window)
        ignored.update(window)
        report = known.evaluate()
        assert report.state is SignalState.OK
        assert report.statistic_median < 1.5 * report.statistic_noise
        scores.append((report.score, ignored.evaluate().score))
    assert all(ignored_score > known_score for known_score, ignored_score in scores)
    # With short texts in its calibration onnx-int8 shifts less than it did (0.042 measured, AVX512-VNNI).
    assert np.mean(scores, axis=0) @ [-1, 1] > (0.05 if variant == "openvino-int8" else 0.02)


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
    """Fewer than a tenth of dimensions differ, but the mean has clearly shifted: one rule warns, the other does not."""
    random = np.random.default_rng(2)
    reference, current = random.normal(size=(2, 300, D)).astype(np.float32)
    current[:, :4] += 0.8
    states = {}
    for rule in DriftRule:
        watch = detector(reference, rule=rule)
        watch.update(current)
        report = watch.evaluate()
        assert (report.rule, report.ten_percent, report.calibrated) == (rule, False, True)
        assert report.bonferroni_ratio <= report.discovery_ratio <= report.dimensions_ratio
        states[rule] = report.state
    assert states == {DriftRule.TEN_PERCENT: SignalState.OK, DriftRule.CALIBRATED: SignalState.WARN}


def test_the_noise_matches_the_sample_sizes():
    random = np.random.default_rng(4)
    reference = queries(random, 400)
    watch, halves = detector(reference), _noise(reference)
    watch.update(queries(random, 100))
    assert watch.evaluate().statistic_noise == pytest.approx(
        halves * np.sqrt((1 / 400 + 1 / 100) / (1 / 200 + 1 / 200))
    )


def test_the_report_contains_the_guarantee():
    random = np.random.default_rng(5)
    watch = detector(queries(random, 300), false_alarms=FalseAlarms.parse("2 per week"), interval_seconds=600)
    watch.update(queries(random, 200))
    report = watch.evaluate()
    assert report.promised_per_day == pytest.approx(2 / 7)
    assert report.measured_per_day >= 0
    assert report.pvalue > 2 / 7 / 144 if report.score < report.threshold else report.pvalue <= 2 / 7 / 144
    assert report.effective == pytest.approx(200)
    stricter = detector(queries(random, 300), false_alarms=FalseAlarms.parse("1 per month"), interval_seconds=60)
    stricter.update(queries(random, 200))
    assert stricter.evaluate().threshold > report.threshold


def test_repeats_are_tested_once():
    random = np.random.default_rng(5)
    watch = detector(queries(random, 300))
    once, repeated = queries(random, 150), queries(random, 1)
    watch.update(once)
    alone = watch.evaluate()
    watch.update(np.repeat(repeated, 600, axis=0))
    report = watch.evaluate()
    assert (report.samples, report.distinct) == (750, 151)
    assert report.state is alone.state is SignalState.OK
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
    assert report.state is SignalState.UNKNOWN
    assert report.reason == "99 distinct queries, 100 needed"
    assert (report.samples, report.distinct, report.reference) == (198, 99, 120)
    assert report.dimensions_ratio == report.statistic_median == 0
    watch.update(queries(random, 1))
    assert watch.evaluate().state is not SignalState.UNKNOWN


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (None, "no drift reference"),
        (DriftReference.fit(queries(np.random.default_rng(0), 200), "other"), "belongs to model other, not to abc"),
        (DriftReference.fit(queries(np.random.default_rng(0), 99), "abc"), "99 vectors in the reference, 100 needed"),
    ],
)
def test_without_a_usable_reference_nothing_is_ok(reference, reason):
    watch = DriftDetector(reference, fingerprint="abc")
    watch.update(queries(np.random.default_rng(0), 300))
    report = watch.evaluate()
    assert report.state is SignalState.UNKNOWN
    assert reason in report.reason


def unfitted(reference, window=1_000):
    return dataclasses.replace(
        reference,
        calibration=None,
        promise=None,
        terms=ThresholdSettings(window, FalseAlarms.parse("2 per week"), 60.0),
    )


@pytest.mark.parametrize("before", [False, True])
def test_nothing_is_fitted_until_it_is_needed(before):
    """A server creates the detector before it is ready; the observer's thread prepares it later."""
    random = np.random.default_rng(0)
    reference = DriftReference.fit(queries(random, 300), "abc", false_alarms=FalseAlarms.parse("2 per week"))
    watch = DriftDetector(unfitted(reference) if before else reference)
    watch.update(queries(random, 99))
    assert watch.evaluate().reason == "99 distinct queries, 100 needed"
    assert (watch.untested().state, watch.untested().samples) == (SignalState.UNKNOWN, 99)
    assert watch._fitted is None
    watch.prepare()
    prepared = watch._fitted
    assert prepared.calibration == reference.calibration
    watch.update(queries(random, 100))
    assert watch.evaluate().threshold == reference.promise.threshold
    assert watch._fitted is prepared


def test_an_old_reference_with_too_few_sessions_says_so_after_the_first_test():
    random = np.random.default_rng(0)
    rows = queries(random, 200)
    watch = DriftDetector(unfitted(DriftReference.fit(rows, "abc", sessions=np.arange(200) % 19)))
    watch.update(queries(random, 200))
    assert watch.untested().reason == "not tested yet"
    report = watch.evaluate()
    assert (report.state, report.samples) == (SignalState.UNKNOWN, 0)
    assert "worth only 0 independent queries" in report.reason
    assert watch.untested().reason == report.reason


def test_the_matching_fingerprint_is_tested():
    random = np.random.default_rng(0)
    watch = detector(queries(random, 200), fingerprint="abc")
    watch.update(queries(random, 200))
    assert watch.evaluate().state is SignalState.OK


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
