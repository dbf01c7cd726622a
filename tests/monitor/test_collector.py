import re

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from embedship.monitor.collector import MonitorCollector
from embedship.monitor.observer import Observer
from embedship.monitor.reference import Reference
from embedship.monitor.state import State

GAUGES = {
    "embedship_drift_dimensions_ratio",
    "embedship_drift_bonferroni_dimensions_ratio",
    "embedship_drift_statistic_median",
    "embedship_drift_statistic_noise",
    "embedship_drift_window_queries",
    "embedship_drift_distinct_queries",
    "embedship_drift_reference_queries",
    "embedship_recall_rolling_ratio",
    "embedship_recall_rolling_lower_ratio",
    "embedship_recall_rolling_upper_ratio",
    "embedship_recall_baseline_ratio",
    "embedship_monitor_last_evaluation_timestamp_seconds",
}
COUNTERS = {
    "embedship_recall_queries_total",
    "embedship_recall_found_total",
    "embedship_recall_expected_total",
    "embedship_drift_evaluations_total",
    "embedship_monitor_queries_total",
    "embedship_monitor_dropped_total",
    "embedship_monitor_evaluation_seconds_count",
    "embedship_monitor_evaluation_seconds_sum",
}
LABELLED = (
    {f'embedship_{what}_state{{state="{state}"}}' for what in ("drift", "recall") for state in State}
    | {f'embedship_drift_rule_warning{{rule="{rule}"}}' for rule in ("ten_percent", "calibrated")}
    | {f'embedship_monitor_failures_total{{part="{part}"}}' for part in ("observe", "drift", "recall")}
)
UNKNOWN = {f'embedship_{what}_state{{state="unknown"}}' for what in ("drift", "recall")}


def scrape(registry):
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_every_series_is_there_at_zero_from_the_first_scrape(registry):
    registry.register(MonitorCollector(Observer(None, None).report))
    series = scrape(registry)
    assert set(series) == GAUGES | COUNTERS | LABELLED
    assert {name for name, value in series.items() if value} == UNKNOWN
    assert all(series[name] == 1 for name in UNKNOWN)


def test_the_same_series_carry_what_was_measured(registry):
    random = np.random.default_rng(0)
    documents = random.normal(size=(30, 8)).astype(np.float32)

    def exact(vectors, k):
        return np.argsort(-vectors @ documents.T, axis=1)[:, :k]

    reference = Reference.fit(random.normal(size=(300, 8)).astype(np.float32), "abc")
    with Observer(reference, exact, shadow_rate=1.0, baseline=0.9, clock=lambda: 77.0) as observer:
        registry.register(MonitorCollector(observer.report))
        before = scrape(registry)
        vectors = random.normal(3.0, size=(500, 8)).astype(np.float32)
        ids = exact(vectors, 10)
        ids[:, 0] = -1
        observer.saw(vectors, ids)
        observer.saw(None)
        assert observer.flush(30)
        after = scrape(registry)
    assert set(after) == set(before)
    assert after['embedship_drift_state{state="warn"}'] == 1
    assert after['embedship_drift_state{state="unknown"}'] == 0
    assert after['embedship_recall_state{state="ok"}'] == 1
    expected = {
        "embedship_drift_dimensions_ratio": 1,
        "embedship_drift_bonferroni_dimensions_ratio": 1,
        "embedship_drift_window_queries": 500,
        "embedship_drift_distinct_queries": 500,
        "embedship_drift_reference_queries": 300,
        'embedship_drift_rule_warning{rule="ten_percent"}': 1,
        'embedship_drift_rule_warning{rule="calibrated"}': 1,
        "embedship_recall_queries_total": 500,
        "embedship_recall_found_total": 4500,
        "embedship_recall_expected_total": 5000,
        "embedship_recall_rolling_ratio": 0.9,
        "embedship_recall_baseline_ratio": 0.9,
        "embedship_drift_evaluations_total": 1,
        "embedship_monitor_queries_total": 500,
        "embedship_monitor_dropped_total": 0,
        'embedship_monitor_failures_total{part="observe"}': 1,
        'embedship_monitor_failures_total{part="recall"}': 0,
        "embedship_monitor_evaluation_seconds_count": 1,
        "embedship_monitor_last_evaluation_timestamp_seconds": 77,
    }
    assert {name: after[name] for name in expected} == expected
    assert after["embedship_drift_statistic_median"] > after["embedship_drift_statistic_noise"] > 0
    assert after["embedship_recall_rolling_lower_ratio"] < 0.9 < after["embedship_recall_rolling_upper_ratio"]
    assert after["embedship_monitor_evaluation_seconds_sum"] > 0


def test_the_two_drift_ratios_are_not_confused(registry):
    report = Observer(None, None).report()
    drift = msgspec.structs.replace(report.drift, dimensions_ratio=0.5, bonferroni_ratio=0.25, ten_percent=True)
    registry.register(MonitorCollector(lambda: msgspec.structs.replace(report, drift=drift)))
    series = scrape(registry)
    assert series["embedship_drift_dimensions_ratio"] == 0.5
    assert series["embedship_drift_bonferroni_dimensions_ratio"] == 0.25
    assert series['embedship_drift_rule_warning{rule="ten_percent"}'] == 1
    assert series['embedship_drift_rule_warning{rule="calibrated"}'] == 0


def test_counters_only_rise(registry):
    with Observer(None, lambda vectors, k: np.tile(np.arange(k), (len(vectors), 1)), shadow_rate=0.5) as observer:
        registry.register(MonitorCollector(observer.report))
        scrapes = [scrape(registry)]
        for n in (40, 1, 60):
            observer.saw(np.ones((n, 4), np.float32), np.tile(np.arange(10), (n, 1)))
            assert observer.flush(30)
            scrapes.append(scrape(registry))
    for name in COUNTERS - {"embedship_monitor_dropped_total"}:
        values = [each[name] for each in scrapes]
        assert values == sorted(values)
        assert values[-1] > values[0] == 0


def test_names_follow_the_conventions(registry):
    """What `promtool check metrics` looks at: help, _total on counters only, base units, no reserved suffix."""
    registry.register(MonitorCollector(Observer(None, None).report))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) == len(GAUGES) + len(COUNTERS) - 1 + 4  # a summary is one family; 4 have labels
    for family in families:
        assert re.fullmatch(r"embedship_(drift|recall|monitor)(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(total|count|sum|bucket|info|ms|percent|milliseconds)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")


def test_a_second_collector_on_one_registry_is_refused(registry):
    registry.register(MonitorCollector(Observer(None, None).report))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(MonitorCollector(Observer(None, None).report))
