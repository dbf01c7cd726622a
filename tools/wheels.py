"""Check that the pinned versions have wheels for each supported Python version and platform.

`python tools/wheels.py` resolves the extras of pyproject.toml with constraints.txt for every target. It builds nothing,
so a package without a matching wheel fails. The exit code is 1 if a target fails. It needs `uv` (`pip install uv`) and
a package index. docs/install.md shows the result.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# OpenVINO's wheel for ARM64 needs glibc 2.35 (Ubuntu 22.04, Debian 12); all other wheels need 2.28.
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM64": "aarch64-manylinux_2_35",
    "macOS ARM64": "aarch64-apple-darwin",
}
MACOS = "14.0"  # the oldest version that the wheels of ONNX Runtime and torch support
EXTRAS = ("cpu", "export")


def resolve(extra: str, python: str, platform: str) -> str | None:
    """Return the reason why an extra cannot be installed from wheels on this target, or None if it can."""
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    command = [uv, "pip", "compile", "--quiet", "pyproject.toml", "--extra", extra, "--constraints", "constraints.txt"]
    target = ["--only-binary", ":all:", "--python-version", python, "--python-platform", platform]
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "MACOSX_DEPLOYMENT_TARGET": MACOS}
    answer = subprocess.run(
        [*command, *target], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return " ".join(answer.stderr.split()) if answer.returncode else None


def main() -> int:
    failed = 0
    print("| platform | " + " | ".join(PYTHONS) + " |")
    print("|---" * (len(PYTHONS) + 1) + "|")
    for name, platform in PLATFORMS.items():
        cells = []
        for python in PYTHONS:
            reasons = {extra: resolve(extra, python, platform) for extra in EXTRAS}
            cells.append(" ".join(f"`[{extra}]`" for extra, reason in reasons.items() if reason is None) or "none")
            for extra, reason in reasons.items():
                if reason is not None:
                    failed += 1
                    print(f"[{extra}] on {name}, Python {python}: {reason}", file=sys.stderr)
        print(f"| {name} | " + " | ".join(cells) + " |")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
