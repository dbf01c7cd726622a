"""benchmarks/drift.py rejects impossible comparisons before the measurement, which takes an hour."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "drift.py"


def test_detectors_without_ours_to_compare_with_are_refused_before_any_work(tmp_path: Path) -> None:
    kept = tmp_path / "cost.json"
    kept.write_text(json.dumps({"benchmark": "drift", "cost": {}}))
    for flags in ([], ["--merge", str(kept)]):
        command = [sys.executable, str(BENCHMARK), "--quick", "--no-peers", "--detectors", "the 10% rule", *flags]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert ended.stderr.startswith("the comparison needs embedship, which is not among --detectors")


def test_a_kept_result_of_another_machine_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    about = {"date": "2026-11-24", "machine": {"cpu": "another"}, "commit": "1", "versions": {}}
    kept.write_text(json.dumps({"detectors": {"evidently mmd": {}}, **about}))
    command = [
        sys.executable,
        str(BENCHMARK),
        "--quick",
        "--no-peers",
        "--detectors",
        "embedship",
        "--merge",
        str(kept),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("the kept result is from another machine")
