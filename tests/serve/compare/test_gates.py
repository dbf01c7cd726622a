"""Each gate on both sides of its limit."""

from __future__ import annotations

import msgspec
import pytest

from embedship.monitor.state import SignalState
from embedship.serve.compare import gates
from embedship.serve.compare.gates import CompareThresholds, CosineFloor
from embedship.serve.compare.rankings import LabelStatistics, MeanEstimate, MetricComparison, RankingAgreement
from embedship.serve.compare.report import (
    ComparedSide,
    CompareMeasurements,
    DriftStates,
    LatencyRatio,
    RequestFailures,
    SpeedRatio,
    VectorParity,
)

NAN = float("nan")
OLD = ComparedSide("old", "m", "a" * 64, "onnx", "float32", 384, 100, 200)
NEW = ComparedSide("new", "m", "b" * 64, "onnx", "float32", 384, 150, 500)


def agreed(lower: float) -> RankingAgreement:
    return RankingAgreement(100, MeanEstimate((1 + lower) / 2, lower, 1.0), "so")


def test_another_model_must_be_meant() -> None:
    assert gates.model(OLD, OLD, CompareThresholds()).passed
    assert gates.model(OLD, NEW, CompareThresholds()).passed is False
    assert gates.model(OLD, NEW, CompareThresholds(other_model=True)).passed


def test_cosines() -> None:
    floor = CosineFloor(0.97, 0.99)
    for judge in (gates.golden, gates.vectors):
        assert judge(VectorParity(9, 0.98, 0.98, 0.995), floor).passed
        assert judge(VectorParity(9, 0.96, 0.96, 0.995), floor).passed is False
        assert judge(VectorParity(9, 0.98, 0.98, 0.98), floor).passed is False
        assert judge(VectorParity(9, NAN, NAN, NAN), floor).passed is False
    assert gates.vectors(VectorParity(900, 0.5, 0.98, 0.995), floor).passed, "one odd query is no other model"


def test_the_lower_end_decides() -> None:
    assert gates.agreement(agreed(0.9), True, CompareThresholds()).passed
    assert gates.agreement(agreed(0.89), True, CompareThresholds()).passed is False
    assert gates.agreement(agreed(0.1), False, CompareThresholds()).passed is None, "of another model none is demanded"
    assert gates.agreement(agreed(0.1), False, CompareThresholds(min_recall=0.2)).passed is False


@pytest.mark.parametrize(("lower", "upper", "passed", "said"), [
    (-0.01, 0.01, True, ""), (-0.03, 0.01, False, "give more of them"), (-0.05, -0.03, False, "It fell"),
])  # fmt: skip
def test_labels(lower: float, upper: float, passed: bool, said: str) -> None:
    fine = MetricComparison(0.8, 0.8, MeanEstimate(0.0, 0.0, 0.0))
    found = MetricComparison(0.8, 0.8 + (lower + upper) / 2, MeanEstimate((lower + upper) / 2, lower, upper))
    recall, ndcg = gates.labels(LabelStatistics(100, found, fine), CompareThresholds())
    assert recall.passed is passed
    assert ndcg.passed
    assert said in recall.reason


@pytest.mark.parametrize(("old", "new", "effect", "passed"), [
    (SignalState.OK, SignalState.OK, 0.02, True), (SignalState.OK, SignalState.WARN, 0.049, True), (SignalState.OK,
        SignalState.WARN, 0.06, False),
    (SignalState.WARN, SignalState.WARN, 0.02, True), (SignalState.WARN, SignalState.WARN, 0.3, False),
    (SignalState.WARN, SignalState.OK, 0.0, True),
    (SignalState.UNKNOWN, SignalState.UNKNOWN, 0.0, None),
])  # fmt: skip
def test_drift_that_is_not_news_is_no_fault(
    old: SignalState, new: SignalState, effect: float, passed: bool | None
) -> None:
    """A limit that one just reaches and the other just does not says nothing of either: how far apart they are does."""
    assert gates.drift(DriftStates(old, new, 0.02, effect, 0.03, 0.1, "few")).passed is passed


def test_what_has_no_limit_is_shown() -> None:
    speed, latency = SpeedRatio(0.5, 0.4, 0.6, 5), LatencyRatio(0.01, 0.03, 0.02, 0.04, 3.0)
    for found, shown, fine, bad in (
        (
            lambda x: gates.speed(speed, x),
            CompareThresholds(),
            CompareThresholds(min_speed=0.5),
            CompareThresholds(min_speed=0.51),
        ),
        (
            lambda x: gates.latency(latency, x),
            CompareThresholds(),
            CompareThresholds(max_latency=3),
            CompareThresholds(max_latency=2.9),
        ),
        (
            lambda x: gates.sizes(OLD, NEW, x)[0],
            CompareThresholds(),
            CompareThresholds(max_size=1.5),
            CompareThresholds(max_size=1.4),
        ),
        (
            lambda x: gates.sizes(OLD, NEW, x)[1],
            CompareThresholds(),
            CompareThresholds(max_memory=2.5),
            CompareThresholds(max_memory=2.4),
        ),
    ):
        assert [found(limits).passed for limits in (shown, fine, bad)] == [None, True, False]


def test_a_limit_that_nothing_was_held_against_is_not_met() -> None:
    limits = CompareThresholds(min_recall=0.9, min_speed=0.5, max_latency=2.0, min_queries=1)
    made = gates.judged(CompareMeasurements(), 100, True, CosineFloor(), limits)
    assert {gate.name for gate in made if gate.passed is False} == {"ranking", "speed", "latency"}
    assert all(
        gate.passed for gate in gates.judged(CompareMeasurements(), 100, True, CosineFloor(), CompareThresholds())
    )
    weightless = msgspec.structs.replace(NEW, memory_bytes=None)
    assert gates.sizes(OLD, weightless, CompareThresholds(max_memory=2))[-1].passed is False
    assert [gate.name for gate in gates.sizes(OLD, weightless, CompareThresholds())] == ["size"]


def test_labels_that_name_nothing_decide_nothing() -> None:
    nothing = MetricComparison(0.0, 0.0, MeanEstimate(0.0, 0.0, 0.0))
    (gate,) = gates.labels(LabelStatistics(100, nothing, nothing), CompareThresholds())
    assert gate.passed is False
    assert "name documents alike" in gate.reason


def test_few_labels_show_nothing() -> None:
    """Two that fare alike have an interval of [0, 0]: among 100 queries they passed for another model, too."""
    alike = MetricComparison(0.8, 0.8, MeanEstimate(0.0, 0.0, 0.0))
    made = gates.judged(
        CompareMeasurements(labels=LabelStatistics(2, alike, alike)), 100, True, CosineFloor(), CompareThresholds()
    )
    assert [gate.name for gate in made if gate.passed is False] == ["labels"]
    assert [gate.passed for gate in made if gate.name.endswith("by labels")] == [None, None], "shown"
    assert "2 labelled queries; 100 are demanded" in gates.verdict(made)[1]
    assert all(gate.passed for gate in gates.labels(LabelStatistics(100, alike, alike), CompareThresholds()))
    assert gates.labels(LabelStatistics(99, alike, alike), CompareThresholds())[0].passed is False
    assert all(gate.passed for gate in gates.labels(LabelStatistics(2, alike, alike), CompareThresholds(min_queries=2)))


def test_failures_of_both_are_nobodys() -> None:
    assert gates.failures(RequestFailures(100, 3, 3), CompareThresholds()).passed
    assert gates.failures(RequestFailures(100, 3, 4, "why"), CompareThresholds()).passed is False
    assert gates.failures(RequestFailures(100, 3, 4, "why"), CompareThresholds(max_failures=1)).passed


def test_a_pass_says_what_was_not_compared() -> None:
    made = [gates.queries(100, CompareThresholds()), gates.agreement(agreed(0.95), True, CompareThresholds())]
    assert gates.verdict(made) == ["NEW may take OLD's place.", "It passed queries, ranking."]
    assert gates.verdict(made[:1])[-1] == "What it finds was not compared."


def test_few_queries_show_nothing() -> None:
    assert gates.queries(100, CompareThresholds()).passed
    assert gates.queries(99, CompareThresholds()).passed is False
