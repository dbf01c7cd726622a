"""Golden texts and shape certificate of variants under each instruction set that ONEDNN_MAX_CPU_ISA can pretend.

    python benchmarks/isa.py BUNDLE [VARIANT ...]

Each run is a process of its own, because oneDNN reads the variable once. The variable reaches OpenVINO; ONNX Runtime
looks at the CPU itself.
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

# oneDNN's name of a level -> the flag of /proc/cpuinfo that a CPU needs for it, lowest first.
LEVELS = {
    "AVX2": "avx2",
    "AVX512_CORE": "avx512f",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_bf16",
}


def levels() -> list[str]:
    """Those that this CPU has."""
    here = hardware.machine().isa
    return [level for level, flag in LEVELS.items() if flag in here]


def verified(bundle: Path, variant: str, level: str) -> dict[str, object]:
    """What `embedship verify --json` says of a variant under a level; what it says on stderr where it fails."""
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
    parser.add_argument("variants", nargs="*", help="by default those of OpenVINO")
    arguments = parser.parse_args()
    known = Bundle.open(arguments.bundle).manifest.variants
    names = arguments.variants or [each.name for each in known if each.runtime is Runtime.OPENVINO]
    for level in levels():
        for name in names:
            print(level, json.dumps(verified(arguments.bundle, name, level)), flush=True)


if __name__ == "__main__":
    main()
