"""benchmarks/openvino_shapes.py: its attention is correct in float32."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "openvino_shapes.py"
    spec = importlib.util.spec_from_file_location("openvino_shapes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("head", [32, 64])
def test_attention_in_int8_is_right_around_its_head_size_with_the_hint_that_the_engine_gives(
    script: ModuleType, head: int
) -> None:
    exact, quick = (script.graph(head, 2, 1, each) for each in (False, True))
    setting = script.Setting("f32", "1024", 2)
    shapes = [(rows, width) for rows in (1, 2) for width in range(head - 2, head + 3)]
    given = script.random_inputs(2 * head)
    runner = script.Runner(quick, setting)
    assert script.wrong(runner, script.Runner(exact, script.Setting("f32", "0", 1)), given, shapes) == []


def test_a_model_that_is_another_one_is_found_wrong(script: ModuleType) -> None:
    exact, other = (script.graph(32, 2, 1, True, seed) for seed in (0, 1))
    runners = [script.Runner(each, script.Setting("f32", "1024", 1)) for each in (other, exact)]
    found = script.wrong(*runners, script.random_inputs(64), [(1, 8)])
    assert [(each.rows, each.width) for each in found] == [(1, 8)]
