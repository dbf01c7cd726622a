import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from embedship.monitor.errors import InvalidVectors
from embedship.monitor.statistics import (
    SortedSample,
    benjamini_hochberg,
    discovered,
    ks_2samp,
    ks_pvalue,
    ks_statistic,
    recall_interval,
    significant,
)


def scipy_ks(reference, current):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy announces its own fallbacks
        results = [stats.ks_2samp(a, b) for a, b in zip(reference.T, current.T, strict=True)]
    return np.array([(r.statistic, r.pvalue) for r in results]).T


def assert_equals_scipy(reference, current):
    expected = scipy_ks(reference, current)
    np.testing.assert_allclose(np.array(ks_2samp(reference, current)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (1, 7), (50, 50), (50, 37), (64, 100), (1000, 1000), (300, 1000), (301, 997)]
)
@pytest.mark.parametrize("shift", [0.0, 0.2, 3.0])
def test_ks_equals_scipy(n, m, shift):
    random = np.random.default_rng(n + m)
    assert_equals_scipy(random.normal(size=(n, 6)), random.normal(shift, size=(m, 6)))


@pytest.mark.parametrize(("n", "m"), [(10_000, 10_000), (10_001, 10_001), (10_001, 33), (33, 12_000)])
def test_ks_equals_scipy_on_both_sides_of_its_limit_for_exact_values(n, m):
    random = np.random.default_rng(1)
    assert_equals_scipy(random.normal(size=(n, 2)), random.normal(0.02, size=(m, 2)))


@pytest.mark.parametrize("values", [2, 5, 40])
@pytest.mark.parametrize(("n", "m"), [(60, 60), (80, 45)])
def test_ks_equals_scipy_with_ties(values, n, m):
    random = np.random.default_rng(values)
    assert_equals_scipy(random.integers(0, values, (n, 8)).astype(np.float32), random.integers(0, values, (m, 8)) / 1.0)


samples = st.lists(st.integers(-3, 3) | st.floats(-2, 2, width=32), min_size=1, max_size=25)


@settings(max_examples=150)
@given(samples, samples)
def test_ks_equals_scipy_for_any_sample(reference, current):
    assert_equals_scipy(np.array(reference, float)[:, None], np.array(current, float)[:, None])


def test_ks_of_a_sorted_reference_is_the_same():
    random = np.random.default_rng(0)
    reference, current = random.normal(size=(90, 5)), random.normal(size=(70, 5))
    prepared = SortedSample.of(reference)
    for plain, quick in zip(ks_2samp(reference, current), ks_2samp(prepared, current), strict=True):
        np.testing.assert_array_equal(plain, quick)


def test_ks_leaves_its_arguments_alone():
    random = np.random.default_rng(0)
    reference, current = random.normal(size=(9, 1)), random.normal(size=(7, 1))
    copies = reference.copy(), current.copy()
    ks_2samp(reference, current)
    np.testing.assert_array_equal(reference, copies[0])
    np.testing.assert_array_equal(current, copies[1])


@pytest.mark.parametrize(
    ("reference", "current"), [((5, 3), (5, 2)), ((0, 3), (5, 3)), ((5, 3), (0, 3)), ((5,), (5, 1))]
)
def test_ks_refuses_shapes_that_do_not_fit(reference, current):
    with pytest.raises(InvalidVectors):
        ks_statistic(np.zeros(reference), np.zeros(current))


def test_pvalue_of_a_distance_no_samples_have():
    with pytest.raises(ValueError, match="no samples of 2 and 4 have"):
        ks_pvalue(np.array([5.0]), 2, 4)


@pytest.mark.parametrize(("n", "m"), [(101, 97), (100, 100)])
@pytest.mark.parametrize("alpha", [0.0, 1e-4, 0.05, 0.5, 1.1])
def test_significant_is_a_comparison_of_all_pvalues(n, m, alpha):
    random = np.random.default_rng(5)
    statistic, pvalue = ks_2samp(random.normal(size=(n, 80)), random.normal(np.linspace(0, 0.9, 80), size=(m, 80)))
    np.testing.assert_array_equal(significant(statistic, n, m, alpha), pvalue < alpha)


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("n", "m"), [(60, 60), (301, 97)])
def test_discovered_is_benjamini_hochberg(n, m, shift):
    random = np.random.default_rng(n)
    for _ in range(20):
        current = random.normal(np.linspace(0, shift, 30), size=(m, 30))
        statistic, pvalue = ks_2samp(random.normal(size=(n, 30)), current)
        expected = benjamini_hochberg(pvalue, 0.2)
        np.testing.assert_array_equal(discovered(statistic, n, m, 0.2), expected)
    assert expected.any() or shift < 1


def test_benjamini_hochberg_equals_scipy():
    random = np.random.default_rng(2)
    pvalue = np.concatenate([random.uniform(size=60), random.uniform(0, 0.01, size=20)])
    expected = stats.false_discovery_control(pvalue) <= 0.05
    assert 10 < expected.sum() < 60
    np.testing.assert_array_equal(benjamini_hochberg(pvalue, 0.05), expected)


def test_benjamini_hochberg_steps_up():
    assert benjamini_hochberg(np.array([0.04, 0.03]), 0.05).tolist() == [True, True]
    assert benjamini_hochberg(np.array([0.9, 0.03]), 0.05).tolist() == [False, False]


def test_recall_interval_covers_clustered_recall():
    """Slots of a query fail together (beta-binomial, intra-query correlation 1/3): 95% must stay about 95%."""
    random = np.random.default_rng(0)
    trials, n, k, a, b = 400, 200, 10, 1.8, 0.2
    covered = naive = 0
    for _ in range(trials):
        recalls = random.binomial(k, random.beta(a, b, n)) / k
        covered += (interval := recall_interval(recalls, k)).lower <= a / (a + b) <= interval.upper
        wilson = stats.binomtest(round(recalls.sum() * k), n * k).proportion_ci(method="wilson")
        naive += wilson.low <= a / (a + b) <= wilson.high
    assert 0.93 <= covered / trials <= 0.98
    assert naive / trials < 0.85  # what counting slots as trials would have given


def test_recall_interval_of_independent_slots_is_about_wilson():
    recalls = np.random.default_rng(0).binomial(10, 0.9, 500) / 10
    wilson = stats.binomtest(round(recalls.sum() * 10), 5000).proportion_ci(method="wilson")
    np.testing.assert_allclose(recall_interval(recalls, 10), (wilson.low, wilson.high), atol=0.002)


def test_recall_interval_at_recall_one_counts_queries():
    lower, upper = recall_interval(np.ones(500), 10)
    z2 = stats.t.ppf(0.975, 499) ** 2
    assert upper == pytest.approx(1)
    assert lower == pytest.approx(500 / (500 + z2))


def test_recall_interval_of_equal_recalls_is_bounded_by_the_slots():
    lower, upper = recall_interval(np.full(100, 0.5), 10)
    assert upper - lower == pytest.approx(2 * 1.984 * np.sqrt(0.25 / 1000), rel=0.01)


@pytest.mark.parametrize("n", [0, 1])
def test_recall_interval_without_evidence_is_everything(n):
    assert recall_interval(np.ones(n), 10) == (0.0, 1.0)
