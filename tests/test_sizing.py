"""docs/sizing.md, docs/scale.md: their arithmetic gives what it says, their measured figures are those of kept runs."""

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
from embedship.serve.index import IndexKind, kinds, recipe
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import STAGE, QuantisationParams
from embedship.serve.index.recipe import RerankStore

ROOT = Path(__file__).parents[1]
PAGES = ("sizing", "scale")
COMPUTED = {"sizing": 14, "scale": 24}
MEASURED = {"sizing": 5, "scale": 4}
SIMULATED = {"sizing": 0, "scale": 21}


def text(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text()


def lines(page: str) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def values(page: str) -> dict[str, Any]:
    found: dict[str, Any] = {"ceil": ceil}
    exec("\n".join(lines(page)), found)
    return found


def given(page: str) -> list[tuple[str, str, str]]:
    """Name, expression and remark of each line."""
    return [tuple(re.fullmatch(r"(\w+) = (.+?)  # (.+)", line).groups()) for line in lines(page)]  # type: ignore[union-attr,misc]


@pytest.mark.parametrize("page", PAGES)
def test_every_result_is_the_one_it_says(page: str) -> None:
    found, checked = values(page), 0
    for name, expression, remark in given(page):
        if isinstance(ast.parse(expression, mode="eval").body, ast.Constant) or ": scale " in remark:
            continue  # given, not computed
        said = float(remark)
        digits = len(remark.partition(".")[2])
        assert round(found[name], digits) == pytest.approx(said), f"{name} is {found[name]}"
        checked += 1
    assert checked >= COMPUTED[page]


@pytest.mark.parametrize("page", PAGES)
def test_what_was_measured_or_simulated_is_in_the_kept_runs(page: str) -> None:
    runs = dict(re.findall(r"\[(encode|load|scale)\]\(\.\./(benchmarks/results/[\w.-]+)\)", text(page)))
    found, seen = values(page), {"measured": 0, "simulated": 0}
    for name, _, remark in given(page):
        how, _, where = remark.partition(": ")
        if how not in seen:
            continue
        run, path = where.split(" ", 1)
        assert (how == "simulated") == (run == "scale"), f"{name} is {how}"
        kept = json.loads((ROOT / runs[run]).read_text())
        assert found[name] == pytest.approx(at(kept, path), rel=1e-5), name
        seen[how] += 1
    assert seen == {"measured": MEASURED[page], "simulated": SIMULATED[page]}


def at(kept: Any, path: str) -> Any:
    """A value by its path; "0.5" and "after 20 batches, …" are names."""
    parts = re.findall(r"\d\.\d+|[^.]+", path)
    return reduce(lambda value, part: value[int(part) if isinstance(value, list) else part], parts, kept)


def test_bytes_are_those_of_real_indexes(tmp_path: Path) -> None:
    """To 5 bytes a vector: code books are shared among 6,000 vectors only."""
    found = values("sizing")
    random = np.random.default_rng(0).normal(size=(6_000, found["dimension"])).astype(np.float32)
    truth = ExactVectors.write(tmp_path, [normalise(random)], random.shape)
    for kind in (
        IndexKind.FLAT,
        IndexKind.BINARY,
        IndexKind.PQ,
        IndexKind.RABITQ,
        IndexKind.HNSW_SQ8,
        IndexKind.HNSW_RABITQ,
    ):
        planned = recipe.of(kind, truth.size, truth.dimension, RerankStore.FLOAT16)
        packing = QuantisationParams(scale=None, threshold=0.0 if kind is IndexKind.BINARY else None)
        kinds.write(tmp_path, truth, planned, packing, kinds.effort(planned, None))
        bytes = (tmp_path / STAGE).stat().st_size / truth.size
        assert bytes == pytest.approx(found[f"{kind.replace('-', '_')}_bytes"], abs=5), kind


def test_the_values_follow_from_it() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", text("sizing"), re.DOTALL)
    said, found = yaml.safe_load(block), values("sizing")
    assert said["replicas"] == found["replicas"] == found["replicas_paid"]
    assert found["limit_rabitq"] < 1024 * 1.048576, "1Gi"


def test_both_pages_reckon_with_the_same_figures() -> None:
    sizing, scale = values("sizing"), values("scale")
    shared = {name for name in sizing.keys() & scale.keys() if name.endswith("_bytes") or name == "capacity"}
    assert len(shared) >= 5
    assert {name: sizing[name] for name in shared} == {name: scale[name] for name in shared}
