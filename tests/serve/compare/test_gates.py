"""Each gate on both sides of its limit."""

from __future__ import annotations

import msgspec
import pytest

from embedship.monitor.state import State
from embedship.serve.compare import gates
from embedship.serve.compare.gates import Floor, Limits
from embedship.serve.compare.rankings import Agreement, Estimate, Labels, Quality
from embedship.serve.compare.report import Drift, Failures, Latency, Measured, Parity, Side, Speed

NAN = float("nan")
OLD = Side("old", "m", "a" * 64, "onnx", "float32", 384, 100, 200)
NEW = Side("new", "m", "b" * 64, "onnx", "float32", 384, 150, 500)


def agreed(lower: float) -> Agreement:
    return Agreement(100, Estimate((1 + lower) / 2, lower, 1.0), "so")


def test_another_model_must_be_meant() -> None:
    assert gates.model(OLD, OLD, Limits()).passed
    assert gates.model(OLD, NEW, Limits()).passed is False
    assert gates.model(OLD, NEW, Limits(other_model=True)).passed


def test_cosines() -> None:
    floor = Floor(0.97, 0.99)
    for judge in (gates.golden, gates.vectors):
        assert judge(Parity(9, 0.98, 0.98, 0.995), floor).passed
        assert judge(Parity(9, 0.96, 0.96, 0.995), floor).passed is False
        assert judge(Parity(9, 0.98, 0.98, 0.98), floor).passed is False
        assert judge(Parity(9, NAN, NAN, NAN), floor).passed is False
    assert gates.vectors(Parity(900, 0.5, 0.98, 0.995), floor).passed, "one odd query is no other model"


def test_the_lower_end_decides() -> None:
    assert gates.agreement(agreed(0.9), True, Limits()).passed
    assert gates.agreement(agreed(0.89), True, Limits()).passed is False
    assert gates.agreement(agreed(0.1), False, Limits()).passed is None, "of another model none is demanded"
    assert gates.agreement(agreed(0.1), False, Limits(min_recall=0.2)).passed is False


@pytest.mark.parametrize(("lower", "upper", "passed", "said"), [
    (-0.01, 0.01, True, ""), (-0.03, 0.01, False, "give more of them"), (-0.05, -0.03, False, "It fell"),
])  # fmt: skip
def test_labels(lower: float, upper: float, passed: bool, said: str) -> None:
    fine = Quality(0.8, 0.8, Estimate(0.0, 0.0, 0.0))
    found = Quality(0.8, 0.8 + (lower + upper) / 2, Estimate((lower + upper) / 2, lower, upper))
    recall, ndcg = gates.labels(Labels(100, found, fine), Limits())
    assert recall.passed is passed
    assert ndcg.passed
    assert said in recall.reason


@pytest.mark.parametrize(("old", "new", "effect", "passed"), [
    (State.OK, State.OK, 0.02, True), (State.OK, State.WARN, 0.049, True), (State.OK, State.WARN, 0.06, False),
    (State.WARN, State.WARN, 0.02, True), (State.WARN, State.WARN, 0.3, False), (State.WARN, State.OK, 0.0, True),
    (State.UNKNOWN, State.UNKNOWN, 0.0, None),
])  # fmt: skip
def test_drift_that_is_not_news_is_no_fault(old: State, new: State, effect: float, passed: bool | None) -> None:
    """A limit that one just reaches and the other just does not says nothing of either: how far apart they are does."""
    assert gates.drift(Drift(old, new, 0.02, effect, 0.03, 0.1, "few")).passed is passed


def test_what_has_no_limit_is_shown() -> None:
    speed, latency = Speed(0.5, 0.4, 0.6, 5), Latency(0.01, 0.03, 0.02, 0.04, 3.0)
    for found, shown, fine, bad in (
        (lambda x: gates.speed(speed, x), Limits(), Limits(min_speed=0.5), Limits(min_speed=0.51)),
        (lambda x: gates.latency(latency, x), Limits(), Limits(max_latency=3), Limits(max_latency=2.9)),
        (lambda x: gates.sizes(OLD, NEW, x)[0], Limits(), Limits(max_size=1.5), Limits(max_size=1.4)),
        (lambda x: gates.sizes(OLD, NEW, x)[1], Limits(), Limits(max_memory=2.5), Limits(max_memory=2.4)),
    ):
        assert [found(limits).passed for limits in (shown, fine, bad)] == [None, True, False]


def test_a_limit_that_nothing_was_held_against_is_not_met() -> None:
    limits = Limits(min_recall=0.9, min_speed=0.5, max_latency=2.0, min_queries=1)
    made = gates.judged(Measured(), 100, True, Floor(), limits)
    assert {gate.name for gate in made if gate.passed is False} == {"ranking", "speed", "latency"}
    assert all(gate.passed for gate in gates.judged(Measured(), 100, True, Floor(), Limits()))
    weightless = msgspec.structs.replace(NEW, memory_bytes=None)
    assert gates.sizes(OLD, weightless, Limits(max_memory=2))[-1].passed is False
    assert [gate.name for gate in gates.sizes(OLD, weightless, Limits())] == ["size"]


def test_labels_that_name_nothing_decide_nothing() -> None:
    nothing = Quality(0.0, 0.0, Estimate(0.0, 0.0, 0.0))
    (gate,) = gates.labels(Labels(100, nothing, nothing), Limits())
    assert gate.passed is False
    assert "name documents alike" in gate.reason


def test_few_labels_show_nothing() -> None:
    """Two that fare alike have an interval of [0, 0]: among 100 queries they passed for another model, too."""
    alike = Quality(0.8, 0.8, Estimate(0.0, 0.0, 0.0))
    made = gates.judged(Measured(labels=Labels(2, alike, alike)), 100, True, Floor(), Limits())
    assert [gate.name for gate in made if gate.passed is False] == ["labels"]
    assert [gate.passed for gate in made if gate.name.endswith("by labels")] == [None, None], "shown"
    assert "2 labelled queries; 100 are demanded" in gates.verdict(made)[1]
    assert all(gate.passed for gate in gates.labels(Labels(100, alike, alike), Limits()))
    assert gates.labels(Labels(99, alike, alike), Limits())[0].passed is False
    assert all(gate.passed for gate in gates.labels(Labels(2, alike, alike), Limits(min_queries=2)))


def test_failures_of_both_are_nobodys() -> None:
    assert gates.failures(Failures(100, 3, 3), Limits()).passed
    assert gates.failures(Failures(100, 3, 4, "why"), Limits()).passed is False
    assert gates.failures(Failures(100, 3, 4, "why"), Limits(max_failures=1)).passed


def test_a_pass_says_what_was_not_compared() -> None:
    made = [gates.queries(100, Limits()), gates.agreement(agreed(0.95), True, Limits())]
    assert gates.verdict(made) == ["NEW may take OLD's place.", "It passed queries, ranking."]
    assert gates.verdict(made[:1])[-1] == "What it finds was not compared."


def test_few_queries_show_nothing() -> None:
    assert gates.queries(100, Limits()).passed
    assert gates.queries(99, Limits()).passed is False
