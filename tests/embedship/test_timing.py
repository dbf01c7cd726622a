"""Noise cannot choose: variants that take known times, on a clock that moves only when they work."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from embedship import timing, tune, variant_choice
from embedship.bundle import Bundle, Objective, Precision, Variant
from embedship.timing import ProcessClock, VariantTiming
from embedship.tokens import TokenBatch

TEXTS = [" ".join("word" for _ in range(n)) for n in (3, 5, 8, 9, 13, 40, 120, 200)]
Slow = Callable[[str, int], float]


class FakeClock(ProcessClock):
    """Of one machine with two cores; `others` take CPU time while the process waits."""

    def __init__(self) -> None:
        self.walls = self.cpus = self.used = 0.0

    def wall(self) -> float:
        return self.walls

    def cpu(self) -> float:
        return self.cpus

    def machine(self) -> float:
        return self.used


class FakeEncoder:
    """Takes `cost` CPU seconds a token on two streams; `slow(name, call)` says how many times longer the wall shows."""

    def __init__(self, name: str, cost: float, clock: FakeClock, slow: Slow) -> None:
        self.name, self.cost, self.clock, self.slow, self.calls = name, cost, clock, slow, 0
        self.engine = SimpleNamespace(streams=2)
        self.asked: list[list[str]] = []

    def tokenizer(self, texts: Sequence[str]) -> TokenBatch:
        return TokenBatch([[1] * len(text.split()) for text in texts], [0] * len(texts))

    def encode(self, texts: list[str]) -> None:
        self.asked.append(texts)
        cpu = self.cost * sum(self.tokenizer(texts).lengths)
        wall = cpu / 2 * self.slow(self.name, self.calls)
        self.calls += 1
        self.clock.walls += wall
        self.clock.cpus += cpu
        self.clock.used += max(cpu, 2 * wall)  # others take what this process did not get


def measured(
    costs: dict[str, float], slow: Slow = lambda name, call: 1.0
) -> tuple[tune.TimedRounds, dict[str, FakeEncoder]]:
    clock = FakeClock()
    encoders = {name: FakeEncoder(name, cost, clock, slow) for name, cost in costs.items()}
    timed = tune.measure(encoders, TEXTS, clock=clock)  # type: ignore[arg-type]
    return timed, encoders


@pytest.fixture
def variants(bundle: Any) -> list[Variant]:
    plain = Bundle.open(bundle).plain
    kinds = {"onnx": Precision.FLOAT32, "openvino": Precision.BFLOAT16, "openvino-int8": Precision.INT8}
    return [msgspec.structs.replace(plain, name=name, precision=kind) for name, kind in kinds.items()]


def best(variants: list[Variant], timed: tune.TimedRounds, objective: Objective = Objective.THROUGHPUT) -> str:
    return variant_choice.rank(variants, objective, timed.speeds)[0].name


COSTS = {"onnx": 10e-6, "openvino": 7e-6, "openvino-int8": 5e-6}


def test_a_clear_winner_is_chosen_after_few_rounds(variants: list[Variant]) -> None:
    timed, _ = measured(COSTS)
    assert best(variants, timed) == "openvino-int8"
    assert not timed.busy
    assert len(timed.throughput["onnx"]) == 3
    made = tune.decided(variants, Objective.THROUGHPUT, "openvino-int8", timed.speeds)
    assert made.alike == ()
    assert made.spread["onnx"] == pytest.approx(0, abs=1e-6)
    assert made.tokens_per_second["onnx"] == pytest.approx(2 / 10e-6, rel=1e-3)
    assert made.tokens_per_cpu_second["onnx"] == pytest.approx(1 / 10e-6, rel=1e-3)


@pytest.mark.parametrize("spell", [3, 4, 5])
def test_a_slow_spell_that_hits_one_variant_does_not_change_the_choice(variants: list[Variant], spell: int) -> None:
    """Calls 0 and 1 are pilots, call 2 warms up, and the rounds begin with call 3."""
    timed, _ = measured(COSTS, lambda name, call: 8.0 if (name, call) == ("openvino-int8", spell) else 1.0)
    assert best(variants, timed) == "openvino-int8"
    assert len(timed.throughput["onnx"]) > 3, "more rounds were asked for"
    assert tune.decided(variants, Objective.THROUGHPUT, "openvino-int8", timed.speeds).spread["openvino-int8"] > 1


def test_on_a_busy_machine_cpu_time_decides_and_it_is_said(
    variants: list[Variant], caplog: pytest.LogCaptureFixture
) -> None:
    """As seen: all at a tenth of their speed, and the fastest held up most."""
    timed, _ = measured(COSTS, lambda name, call: 16.0 if name == "openvino-int8" else 9.0)
    speeds = timed.speeds
    assert speeds.tokens_per_second["openvino-int8"] < speeds.tokens_per_second["openvino"], "by the wall clock"
    assert best(variants, timed) == "openvino-int8"
    made = tune.decided(variants, Objective.THROUGHPUT, "openvino-int8", speeds)
    assert made.busy
    assert "other programs used this machine" in caplog.text


def test_a_process_that_leaves_its_cores_idle_by_itself_is_not_held_up() -> None:
    clock = FakeClock()
    watch = timing.VariantTimer(["onnx"], "onnx", 2, clock)

    def work(name: str) -> None:
        clock.walls, clock.cpus, clock.used = clock.walls + 1, clock.cpus + 1, clock.used + 1

    watch.round(work)
    assert not watch.busy


def test_of_what_cannot_be_told_apart_the_more_exact_is_taken(variants: list[Variant]) -> None:
    def noise(name: str, call: int) -> float:
        return 1 + 0.3 * ((call * (3 if name == "openvino" else 5)) % 7) / 7

    timed, _ = measured({"onnx": 10e-6, "openvino": 5.1e-6, "openvino-int8": 5e-6}, noise)
    assert best(variants, timed) == "openvino"
    assert len(timed.throughput["onnx"]) == 7, "all rounds were used before it was given up"
    made = tune.decided(variants, Objective.THROUGHPUT, "openvino", timed.speeds)
    assert made.alike == ("openvino-int8",)
    level, _ = measured({"onnx": 5.1e-6, "openvino": 5.05e-6, "openvino-int8": 5e-6}, noise)
    assert best(variants, level) == "onnx"


def test_latency_comes_from_short_texts_of_several_lengths_in_turn(variants: list[Variant]) -> None:
    timed, encoders = measured(COSTS)
    alone = [texts[0] for texts in encoders["onnx"].asked if len(texts) == 1]
    lengths = [len(text.split()) for text in alone]
    assert set(lengths) == {3, 5, 8, 9, 13}
    assert all(one != other for one, other in itertools.pairwise(lengths)), "the shape changes each time"
    assert timed.speeds.latency_seconds["onnx"] == pytest.approx(38 / 5 * 10e-6 / 2, abs=1e-6)
    assert best(variants, timed, Objective.LATENCY) == "openvino-int8"


def test_a_variant_that_fails_while_it_is_timed_is_dropped_and_the_plain_one_is_not() -> None:
    def fail(name: str) -> Slow:
        def slow(who: str, call: int) -> float:
            if who == name and call == 4:
                raise RuntimeError("no kernel")
            return 1.0

        return slow

    timed, _ = measured(COSTS, fail("openvino"))
    assert list(timed.speeds.tokens_per_second) == ["onnx", "openvino-int8"]
    assert str(timed.failed["openvino"]) == "no kernel"
    with pytest.raises(RuntimeError, match="no kernel"):
        measured(COSTS, fail("onnx"))


def test_parts_that_were_timed_at_other_times_are_put_on_one_scale() -> None:
    def part(plain: float, **other: float) -> tune.TimedRounds:
        rounds = {"onnx": [VariantTiming(plain, 2 * plain)] * 3} | {
            name: [VariantTiming(seconds, seconds)] * 3 for name, seconds in other.items()
        }
        return tune.TimedRounds(rounds, rounds, busy=False, failed={})

    joined = tune._joined("onnx", [part(1.0, a=0.5), part(4.0, b=1.6)])
    assert [joined.throughput[name][0].wall for name in ("onnx", "a", "b")] == pytest.approx([1.0, 0.5, 0.4])


def test_the_real_clock_moves() -> None:
    clock = ProcessClock()
    before = (clock.wall(), clock.cpu())
    sum(range(200_000))
    assert clock.wall() > before[0]
    assert clock.cpu() > before[1]
