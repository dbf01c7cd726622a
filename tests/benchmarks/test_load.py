"""benchmarks/load.py gives a verdict only if the measurement supports it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # its scripts import each other by file name

import load


@pytest.mark.parametrize(
    ("ratio", "met", "said"),
    [(0.9, False, "missed by 5%"), (1.04, True, "met"), (1.28, None, "undetermined, capacity was measured too low")],
)
def test_goodput_above_capacity_is_no_verdict(ratio: float, met: bool | None, said: str) -> None:
    goal = load._goodput(ratio)
    assert goal.met is met
    assert goal.sentence() == f"goodput at 1.3 of capacity / capacity: {ratio:.3g}, goal >= 0.95: {said}"
