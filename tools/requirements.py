"""Writes the requirements of the images, with the sha256 of every file that pip may install: `make requirements`.

    python tools/requirements.py [EXTRAS ...]

EXTRAS are extras of pyproject.toml with commas between them, as in `docker build --build-arg EXTRAS=cpu,pull,milvus`.
Without arguments, the files of the images' defaults are written again, and tools/wheels.txt for tools/fetch.py. The
versions of the images are those of constraints.txt. pip refuses a file with another hash, also if the package index
itself was changed.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "helm" / "images"
FOLDER = IMAGES / "requirements"

# The Python of the images.
PYTHON = "3.11"

# setuptools builds embedship itself, without another download. KubeRay needs Ray's dashboard.
BUILD, DASHBOARD = "setuptools", "ray[default]"


def defaults() -> list[str]:
    """Return the value of EXTRAS in each Dockerfile."""
    found = [re.search(r"^ARG EXTRAS=(\S+)$", path.read_text(), re.M) for path in sorted(IMAGES.glob("*.Dockerfile"))]
    return [match[1] for match in found if match]


def command(extras: str, out: Path) -> list[str]:
    """Return the call of uv. `--universal`: one file for x86_64 and aarch64."""
    wanted = [part for extra in extras.split(",") for part in ("--extra", extra)]
    fixed = ["--constraint", "constraints.txt", "--generate-hashes", "--universal", "--python-version", PYTHON]
    style = ["--no-strip-extras", "--no-annotate", "--no-header", "--quiet"]
    return [_uv(), "pip", "compile", "pyproject.toml", "-", *wanted, *fixed, *style, "--output-file", str(out)]


def write(extras: str) -> Path:
    """Resolve the extras and write their file. Raises CalledProcessError if uv fails."""
    out = FOLDER / f"{extras}.txt"
    more = f"{BUILD}\n{DASHBOARD if 'ray' in extras.split(',') else ''}\n"
    subprocess.run(command(extras, out), input=more, text=True, check=True, cwd=ROOT)
    return out


def write_wheels() -> Path:
    """Write tools/wheels.txt: the wheels that tools/fetch.py downloads. Raises CalledProcessError if uv fails."""
    tools = runpy.run_path(str(ROOT / "tools" / "fetch.py"))["TOOLS"].values()
    pins = sorted({f"{tool.package}=={tool.version}" for tool in tools if getattr(tool, "version", "")})
    out = ROOT / "tools" / "wheels.txt"
    style = [
        "--generate-hashes",
        "--no-deps",
        "--universal",
        "--python-version",
        PYTHON,
        "--no-annotate",
        "--no-header",
    ]
    command = [_uv(), "pip", "compile", "-", *style, "--quiet", "--output-file", str(out)]
    subprocess.run(command, input="\n".join(pins), text=True, check=True, cwd=ROOT)
    return out


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


if __name__ == "__main__":
    for each in sys.argv[1:] or defaults():
        print(write(each))
    if not sys.argv[1:]:
        print(write_wheels())
