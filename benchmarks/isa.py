"""Checks golden texts and shape certificates of variants under each instruction set that ONEDNN_MAX_CPU_ISA can set.

    python benchmarks/isa.py BUNDLE [VARIANT ...]

Each run is a separate process, because oneDNN reads the variable once. OpenVINO respects the variable; ONNX Runtime
detects the CPU itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from embedship import hardware
from embedship.bundle import Bundle, Runtime

# oneDNN's name of a level -> the required flag in /proc/cpuinfo, lowest level first.
LEVELS = {
    "AVX2": "avx2",
    "AVX512_CORE": "avx512f",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_bf16",
}


def levels() -> list[str]:
    """Return the levels that this CPU supports."""
    here = hardware.machine().isa
    return [level for level, flag in LEVELS.items() if flag in here]


def verified(bundle: Path, variant: str, level: str) -> dict[str, object]:
    """Return the output of `embedship verify --json` for a variant under a level, or its stderr if it fails."""
    command = [sys.executable, "-m", "embedship", "verify", str(bundle), "--variant", variant, "--json"]
    done = subprocess.run(
        command, env={**os.environ, "ONEDNN_MAX_CPU_ISA": level}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"variant": variant, "exit": done.returncode, "error": done.stderr.strip()}
    (found,) = json.loads(done.stdout)["variants"]
    return {"exit": 0, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("variants", nargs="*", help="default: the OpenVINO variants")
    arguments = parser.parse_args()
    known = Bundle.open(arguments.bundle).manifest.variants
    names = arguments.variants or [each.name for each in known if each.runtime is Runtime.OPENVINO]
    for level in levels():
        for name in names:
            print(level, json.dumps(verified(arguments.bundle, name, level)), flush=True)


if __name__ == "__main__":
    main()
