"""docs/compare.md names the options that there are, and every gate."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from embedship.serve.commands.compare import compare
from embedship.serve.compare import gates
from embedship.serve.compare.gates import CompareThresholds

PAGE = (Path(__file__).parents[3] / "docs" / "compare.md").read_text()


def test_its_options_exist() -> None:
    known = {"--" + name.replace("_", "-") for name in inspect.signature(compare).parameters} | {"--json"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known
    limits = {"--" + name.replace("_", "-") for name in CompareThresholds.__dataclass_fields__}
    assert limits <= set(re.findall(r"--[a-z][a-z-]+", PAGE)), "every limit is documented"


def test_its_defaults_are_those() -> None:
    default = CompareThresholds()
    for name in ("min_queries", "max_failures"):
        assert f"`--{name.replace('_', '-')}` {getattr(default, name)}" in PAGE
    assert f"`--min-recall` {gates.RECALL}" in PAGE
    assert f"`--max-ndcg-drop` {default.max_recall_drop}" in PAGE
    assert default.max_ndcg_drop == default.max_recall_drop
    assert f"{gates.COSINE_MEAN} and {gates.COSINE}" in PAGE


def test_every_gate_has_a_row() -> None:
    source = inspect.getsource(gates)
    named = set(re.findall(r'Gate\(\s*"([a-z ]+)"', source)) | {"size", "memory"}
    rows = {name.strip() for cells in re.findall(r"^\| ([^|]+) \|", PAGE, re.MULTILINE) for name in cells.split(",")}
    assert named <= rows, named - rows
