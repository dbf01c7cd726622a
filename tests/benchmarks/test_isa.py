"""The gates pass under each instruction set that oneDNN can be limited to on this CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # its scripts import each other by file name

import isa

GOLDEN = """
import json, sys
from embedship import golden
from embedship.encoder import Encoder
with Encoder.open(sys.argv[1], "openvino-int8") as encoder:
    found = golden.check(encoder)
print(json.dumps([found.minimum, found.alone]))
"""


@pytest.mark.parametrize("level", isa.LEVELS)
def test_golden_texts_hold_under_a_level(bundle: Path, level: str) -> None:
    if level not in isa.levels():
        pytest.skip(f"this CPU has no {isa.LEVELS[level]}")
    done = subprocess.run(
        [sys.executable, "-c", GOLDEN, str(bundle)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    minimum, alone = json.loads(done.stdout)
    assert minimum > 0.95
    assert alone > 0.999
