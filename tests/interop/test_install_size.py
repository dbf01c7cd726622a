"""What an install with one runtime takes on the disk, and that it runs a bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, SOURCES

pytestmark = pytest.mark.slow

LIMIT_MB = 400


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extra [onnxruntime] of this checkout, in a folder of its own, without compiled Python files."""
    work = tmp_path_factory.mktemp("onnxruntime")
    source = work / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        else:
            shutil.copyfile(ROOT / name, source / name)
    pip = [str(Path(sys.base_prefix) / "bin" / "python3"), "-m", "pip", "install", "--quiet", "--no-compile"]
    constraints = ["--constraint", str(ROOT / "constraints.txt"), "--disable-pip-version-check"]
    target = ["--target", str(work / "site"), f"{source}[onnxruntime]"]
    subprocess.run([*pip, *constraints, *target], check=True, timeout=600)
    return work / "site"


def megabytes(folder: Path) -> float:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sum(path.stat().st_size for path in files) / 1e6


def test_one_runtime_takes_at_most_400_mb(installed: Path) -> None:
    parts = sorted(((megabytes(path), path.name) for path in installed.iterdir() if path.is_dir()), reverse=True)
    total = megabytes(installed)
    print(f"[onnxruntime]: {total:.0f} MB, of which", ", ".join(f"{name} {size:.0f}" for size, name in parts[:8]))
    assert total <= LIMIT_MB
    assert not (installed / "openvino").exists()


@pytest.mark.parametrize("verb", [["verify"], ["verify", "--variant", "onnx"]])
def test_it_runs_a_bundle_with_the_runtime_that_is_there(installed: Path, bundle: Path, verb: list[str]) -> None:
    command = [str(Path(sys.base_prefix) / "bin" / "python3"), "-P", "-m", "embedship", verb[0], str(bundle), *verb[1:]]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
