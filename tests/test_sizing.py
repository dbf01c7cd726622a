"""docs/sizing.md: its arithmetic gives what it says, its measured figures are those of the kept runs."""

from __future__ import annotations

import ast
import json
import re
from functools import reduce
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from embedship.codes import normalise
from embedship.serve.index import Kind, kinds, recipe
from embedship.serve.index.manifest import STAGE, Packing
from embedship.serve.index.recipe import Store
from embedship.serve.index.truth import Truth

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sizing.md").read_text()
LINES = [line for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line]
RUNS = dict(re.findall(r"\[(encode|load)\]\(\.\./(benchmarks/results/[\w.-]+)\)", PAGE))


def values() -> dict[str, Any]:
    found: dict[str, Any] = {"ceil": ceil}
    exec("\n".join(LINES), found)
    return found


def given() -> list[tuple[str, str, str]]:
    """Name, expression and remark of each line."""
    return [tuple(re.fullmatch(r"(\w+) = (.+?)  # (.+)", line).groups()) for line in LINES]  # type: ignore[union-attr,misc]


def test_every_result_is_the_one_it_says() -> None:
    found, checked = values(), 0
    for name, expression, remark in given():
        if isinstance(ast.parse(expression, mode="eval").body, ast.Constant):
            continue  # given, not computed
        said = float(remark)
        digits = len(remark.partition(".")[2])
        assert round(found[name], digits) == pytest.approx(said), f"{name} is {found[name]}"
        checked += 1
    assert checked >= 14


def test_what_was_measured_is_in_the_kept_runs() -> None:
    found, measured = values(), [(name, remark) for name, _, remark in given() if remark.startswith("measured: ")]
    assert len(measured) == 5
    for name, remark in measured:
        run, path = remark.removeprefix("measured: ").split(" ", 1)
        kept = json.loads((ROOT / RUNS[run]).read_text())
        assert found[name] == pytest.approx(at(kept, path), rel=1e-5), name


def at(kept: Any, path: str) -> Any:
    """A value by its path; "0.5" and "after 20 batches, …" are names."""
    parts = re.findall(r"0\.\d+|[^.]+", path)
    return reduce(lambda value, part: value[part], parts, kept)


def test_bytes_are_those_of_real_indexes(tmp_path: Path) -> None:
    """To 5 bytes a vector: code books are shared among 6,000 vectors only."""
    found = values()
    random = np.random.default_rng(0).normal(size=(6_000, found["dimension"])).astype(np.float32)
    truth = Truth.write(tmp_path, [normalise(random)], random.shape)
    for kind in (Kind.FLAT, Kind.BINARY, Kind.PQ, Kind.RABITQ, Kind.HNSW_SQ8, Kind.HNSW_RABITQ):
        planned = recipe.of(kind, truth.size, truth.dimension, Store.FLOAT16)
        packing = Packing(scale=None, threshold=0.0 if kind is Kind.BINARY else None)
        kinds.write(tmp_path, truth, planned, packing, kinds.effort(planned, None))
        bytes = (tmp_path / STAGE).stat().st_size / truth.size
        assert bytes == pytest.approx(found[f"{kind.replace('-', '_')}_bytes"], abs=5), kind


def test_the_values_follow_from_it() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    said, found = yaml.safe_load(block), values()
    assert said["replicas"] == found["replicas"] == found["replicas_paid"]
    assert found["limit_rabitq"] < 1024 * 1.048576, "1Gi"
