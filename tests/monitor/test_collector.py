import re

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from embedship.monitor.canary import CanaryMonitor
from embedship.monitor.collector import MonitorCollector
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.monitor import QualityMonitor
from embedship.monitor.observer import QueryObserver
from embedship.monitor.recall.feedback import FeedbackRecall
from embedship.monitor.recall.probes import LabelledProbe, ProbeRecall
from embedship.monitor.recall.rolling import RecallBaseline
from embedship.monitor.recall.score import RecallScore
from embedship.monitor.series import TABLE, MetricKind
from embedship.monitor.state import SignalState

GOLDEN = np.eye(4, dtype=np.float32)
SOURCES = ("shadow", "probe", "feedback")
# All that is not 0 before anything was seen.
FIRST = {
    'embedship_diagnosis{cause="unknown"}': 1,
    'embedship_drift_state{state="unknown"}': 1,
    'embedship_canary_state{state="unknown"}': 1,
    'embedship_signal_watched{signal="canary"}': 1,
    'embedship_canary_cosine_floor{against="golden",device="cpu:0"}': 0.99,
    'embedship_canary_cosine_floor{against="golden",device="cpu:1"}': 0.99,
    'embedship_canary_cosine_floor{against="start",device="cpu:0"}': 0.999,
    'embedship_canary_cosine_floor{against="start",device="cpu:1"}': 0.999,
    "embedship_drift_interval_seconds": 60,
    "embedship_drift_pvalue": 1,
} | {f'embedship_recall_state{{source="{source}",state="unknown"}}': 1 for source in SOURCES}


def exact(vectors, k):
    return np.tile(np.arange(k), (len(vectors), 1))


def scrape(registry):
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def watched(observer, **parts):
    canary = CanaryMonitor(GOLDEN, ["cpu:0", "cpu:1"], golden_floor=0.99, clock=lambda: 77.0)
    return QualityMonitor("abc", observer, canary, clock=lambda: 77.0, **parts)


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_every_series_is_there_at_zero_from_the_first_scrape(registry):
    registry.register(MonitorCollector(watched(QueryObserver(None, None)).report))
    series = scrape(registry)
    told = {name: value for name, value in series.items() if value}
    limits = {name for name in told if name.startswith("embedship_recall_evidence_limit")}
    since = {"embedship_diagnosis_since_timestamp_seconds"}
    assert {name: value for name, value in told.items() if name not in limits | since} == FIRST
    for part in ("observe", "drift", "recall", "evidence", "canary", "probe", "snapshot"):
        assert series[f'embedship_monitor_failures_total{{part="{part}"}}'] == 0
    for device in ("cpu:0", "cpu:1"):
        for against in ("golden", "start"):
            assert series[f'embedship_canary_cosine{{against="{against}",device="{device}"}}'] == 0


def test_the_same_series_carry_what_was_measured(registry):
    random = np.random.default_rng(0)
    reference = DriftReference.fit(random.normal(size=(300, 8)).astype(np.float32), "abc")
    probes = ProbeRecall([LabelledProbe("a", ("x",)), LabelledProbe("b", ("y",))], missing=1, clock=lambda: 77.0)
    observer = QueryObserver(reference, exact, shadow_rate=1.0, baseline=RecallBaseline.exact(0.9), clock=lambda: 77.0)
    with watched(observer, probes=probes, feedback=FeedbackRecall()) as watch:
        registry.register(MonitorCollector(watch.report))
        before = scrape(registry)
        vectors = random.normal(3.0, size=(500, 8)).astype(np.float32)
        ids = exact(vectors, 10)
        ids[:, 0] = -1
        observer.observe(vectors, ids)
        observer.observe(None)
        assert observer.flush(120)
        watch.canary.saw("cpu:0", GOLDEN)
        watch.canary.failed("cpu:1")
        probes.replayed({0: RecallScore(1, 1, 1.0), 1: RecallScore(0, 1, 0.0)})
        watch.feedback.answers.keep("a", ids[:3])
        watch.feedback.judge([1], {"a": 1, "b": 2}, None)
        after = scrape(registry)
    assert set(after) == set(before)
    expected = {
        'embedship_diagnosis{cause="unknown"}': 1,  # something drifts, and one device has not sung
        "embedship_diagnosis_since_timestamp_seconds": 77,
        'embedship_signal_watched{signal="probe"}': 1,
        'embedship_signal_since_timestamp_seconds{signal="drift"}': 77,
        'embedship_signal_since_timestamp_seconds{signal="shadow"}': 0,
        'embedship_drift_state{state="warn"}': 1,
        'embedship_drift_state{state="unknown"}': 0,
        "embedship_drift_dimensions_ratio": 1,
        "embedship_drift_bonferroni_dimensions_ratio": 1,
        "embedship_drift_window_queries": 500,
        "embedship_drift_distinct_queries": 500,
        "embedship_drift_reference_queries": 300,
        'embedship_drift_rule_warning{rule="ten_percent"}': 1,
        'embedship_drift_rule_warning{rule="calibrated"}': 1,
        "embedship_drift_evaluations_total": 1,
        'embedship_recall_state{source="shadow",state="ok"}': 1,
        'embedship_recall_queries_total{source="shadow"}': 500,
        'embedship_recall_found_total{source="shadow"}': 4500,
        'embedship_recall_expected_total{source="shadow"}': 5000,
        'embedship_recall_rolling_ratio{source="shadow"}': 0.9,
        'embedship_recall_baseline_ratio{source="shadow"}': 0.9,
        'embedship_recall_rolling_ratio{source="probe"}': 0.5,
        'embedship_recall_found_total{source="probe"}': 1,
        'embedship_recall_rolling_ratio{source="feedback"}': 0.5,
        'embedship_recall_expected_total{source="feedback"}': 2,
        "embedship_probe_queries": 2,
        "embedship_probe_replays_total": 1,
        "embedship_probe_ndcg_ratio": 0.5,
        "embedship_probe_missing_labels": 1,
        "embedship_probe_last_replay_timestamp_seconds": 77,
        "embedship_feedback_answers": 3,
        'embedship_canary_cosine{against="golden",device="cpu:0"}': 1,
        'embedship_canary_texts_total{device="cpu:0"}': 4,
        'embedship_canary_failures_total{device="cpu:1"}': 1,
        'embedship_canary_last_round_timestamp_seconds{device="cpu:0"}': 77,
        'embedship_canary_state{state="unknown"}': 1,
        "embedship_monitor_queries_total": 500,
        "embedship_monitor_dropped_total": 0,
        'embedship_monitor_failures_total{part="observe"}': 1,
        'embedship_monitor_failures_total{part="recall"}': 0,
        "embedship_monitor_last_evaluation_timestamp_seconds": 77,
    }
    assert {name: after[name] for name in expected} == expected
    assert after["embedship_drift_statistic_median"] > after["embedship_drift_statistic_noise"] > 0
    assert after["embedship_drift_far_ratio"] > 0.5
    lower, upper = (after[f'embedship_recall_rolling_{end}_ratio{{source="shadow"}}'] for end in ("lower", "upper"))
    assert lower < 0.9 < upper
    assert after["embedship_monitor_evaluation_seconds_total"] > 0
    assert after["embedship_shadow_search_seconds_total"] > 0


def test_the_drift_ratios_are_not_confused(registry):
    status = watched(QueryObserver(None, None)).report()
    drift = msgspec.structs.replace(
        status.queries.drift, dimensions_ratio=0.5, bonferroni_ratio=0.25, discovery_ratio=0.125, score=3.0,
        threshold=2.0, pvalue=0.01, effect=0.7, effect_floor=0.1, promised_per_day=0.03, measured_per_day=0.02,
        effective=60.5, ten_percent=True,
    )  # fmt: skip
    queries = msgspec.structs.replace(status.queries, drift=drift)
    registry.register(MonitorCollector(lambda: msgspec.structs.replace(status, queries=queries)))
    series = scrape(registry)
    expected = {
        "dimensions_ratio": 0.5, "bonferroni_dimensions_ratio": 0.25, "discovery_dimensions_ratio": 0.125,
        "score": 3.0, "score_threshold": 2.0, "pvalue": 0.01, "effect": 0.7, "effect_floor": 0.1,
        'false_alarms_per_day{kind="promised"}': 0.03, 'false_alarms_per_day{kind="measured"}': 0.02,
        "effective_queries": 60.5, 'rule_warning{rule="ten_percent"}': 1, 'rule_warning{rule="calibrated"}': 0,
    }  # fmt: skip
    assert {name: series[f"embedship_drift_{name}"] for name in expected} == expected


def test_counters_only_rise(registry):
    with watched(QueryObserver(None, exact, shadow_rate=0.5)) as watch:
        registry.register(MonitorCollector(watch.report))
        scrapes = [scrape(registry)]
        for n in (40, 1, 60):
            watch.observer.observe(np.ones((n, 4), np.float32), np.tile(np.arange(10), (n, 1)))
            watch.canary.saw("cpu:0", GOLDEN)
            assert watch.observer.flush(120)
            scrapes.append(scrape(registry))
    for name in scrapes[0]:
        values = [each[name] for each in scrapes]
        if "_total" in name:
            assert values == sorted(values)
    for name in ("monitor_queries_total", "drift_evaluations_total", 'canary_texts_total{device="cpu:0"}'):
        assert scrapes[-1][f"embedship_{name}"] > scrapes[1][f"embedship_{name}"] > 0


def test_names_follow_the_conventions(registry):
    """What `promtool check metrics` looks at: help, _total on counters only, base units, no reserved suffix."""
    registry.register(MonitorCollector(watched(QueryObserver(None, None)).report))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) == len(TABLE) == len({series.name for series in TABLE})
    for family, series in zip(families, TABLE, strict=True):
        assert family.type == series.kind
        assert re.fullmatch(r"embedship_[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(total|count|sum|bucket|info|ms|percent|milliseconds)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (series.kind is MetricKind.COUNTER)
            assert tuple(sample.labels) == series.labels or set(sample.labels) == set(series.labels)


def test_one_state_at_a_time(registry):
    registry.register(MonitorCollector(watched(QueryObserver(None, None)).report))
    series = scrape(registry)
    for name in ("embedship_drift_state", "embedship_canary_state"):
        assert sum(series[f'{name}{{state="{state}"}}'] for state in SignalState) == 1
    assert sum(value for name, value in series.items() if name.startswith("embedship_diagnosis{")) == 1


def test_a_second_collector_on_one_registry_is_refused(registry):
    registry.register(MonitorCollector(watched(QueryObserver(None, None)).report))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(MonitorCollector(watched(QueryObserver(None, None)).report))
