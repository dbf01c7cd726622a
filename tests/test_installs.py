"""The extras of pyproject.toml and the pins: each extra resolves, to pinned versions, and no floor is untested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What PyPI's torch brings on Linux, which PyTorch's index for CPUs does not.
CUDA = re.compile(r"^(cuda-|nvidia-|triton)")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", text, re.MULTILINE)
    return {canonical(name): version for name, version in found}


TESTED = pins((ROOT / "constraints.txt").read_text())
OPTIMUM = pins((ROOT / "constraints-optimum.txt").read_text())


def resolved(extras: tuple[str, ...], constraints: str) -> dict[str, str]:
    """The versions that an install of these extras takes, on Linux x86-64; nothing is downloaded but metadata."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up("uv is not installed: it comes with the extra [test]")
    chosen = [part for extra in extras for part in ("--extra", extra)]
    command = [uv, "pip", "compile", "--quiet", "pyproject.toml", *chosen, "--constraints", constraints]
    command += ["--no-header", "--no-annotate", "--python-version", "3.11", "--python-platform", "linux"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr
    return pins(answer.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra != "optimum"])
def test_an_extra_resolves_to_pinned_versions(extra: str) -> None:
    taken = resolved((extra,), "constraints.txt")
    assert len(taken) > 10
    assert {name: version for name, version in taken.items() if TESTED.get(name) != version} == {}


@pytest.mark.slow
def test_the_second_converter_resolves_with_its_own_constraints() -> None:
    taken = resolved(("cpu", "export", "optimum"), "constraints-optimum.txt")
    assert taken["transformers"] == "4.57.6"
    assert {name: v for name, v in taken.items() if OPTIMUM.get(name) != v and not CUDA.match(name)} == {}
    (documented,) = re.findall(r"pip install (-c \S+ '\S+')", (ROOT / "docs" / "variants.md").read_text())
    assert documented == "-c constraints-optimum.txt '.[cpu,export,optimum]'"


@pytest.mark.slow
def test_a_gpu_machine_that_exports_resolves() -> None:
    taken = resolved(("gpu", "export"), "constraints.txt")
    assert {"onnxruntime-gpu", "faiss-gpu", "nvidia-cudnn-cu13", "torch"} <= set(taken)
    assert {"onnxruntime", "faiss-cpu"} & set(taken) == set()


@pytest.mark.slow
def test_a_server_gets_nothing_that_it_never_uses() -> None:
    taken = resolved(("cpu",), "constraints.txt")
    assert {"torch", "transformers", "websockets", "watchfiles", "python-dotenv"} & set(taken) == set()
    assert "openvino" not in resolved(("onnxruntime",), "constraints.txt")
    assert "onnxruntime" not in resolved(("openvino",), "constraints.txt")


def test_every_floor_is_a_version_that_was_tested() -> None:
    asked = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    floors = {canonical(m[1]): m[2] for line in asked if (m := re.match(r"([\w.-]+)(?:\[.*?\])?>=([^,]+)", line))}
    assert len(floors) > 40
    untested = {name: v for name, v in floors.items() if v not in {TESTED.get(name), OPTIMUM.get(name)}}
    assert untested == {}


def test_the_internals_of_uvicorn_that_we_use_are_bounded_above() -> None:
    (line,) = [line for line in EXTRAS["server"] if line.startswith("uvicorn")]
    assert re.fullmatch(r"uvicorn>=0\.\d+\.\d+,<0\.\d+", line)


def test_no_file_says_to_install_what_no_index_has() -> None:
    said = re.compile(r"pip install [^\n`]*(?<![./\w-])embedship\[")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("helm/**/*.md")]
    code = [path for folder in ("embedship", "export", "serve", "monitor") for path in (ROOT / folder).rglob("*.py")]
    assert len(pages) > 20
    found = [path.name for path in [*pages, *code] if said.search(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.slow
def test_every_pin_has_a_wheel_for_every_python_and_platform_that_we_name() -> None:
    resolved(("cpu",), "constraints.txt")  # or skips
    table = subprocess.run(
        [sys.executable, ROOT / "tools" / "wheels.py"], capture_output=True, text=True, timeout=600, check=False
    )
    assert table.returncode == 0, table.stderr
    rows = (ROOT / "docs" / "install.md").read_text()
    for line in table.stdout.splitlines()[2:]:
        name, cells = re.fullmatch(r"(\| [\w -]+?) (\| .*)", line).groups()  # type: ignore[union-attr]
        assert re.search(rf"^{re.escape(name)} \(.*\) {re.escape(cells)}$", rows, re.MULTILINE), line


def test_the_pythons_that_are_checked_are_those_of_the_classifiers() -> None:
    named = {part.split(" :: ")[-1] for part in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", part)}
    listed = re.search(r"^PYTHONS = (.*)$", (ROOT / "tools" / "wheels.py").read_text(), re.MULTILINE)
    assert listed
    assert named == set(re.findall(r"[\d.]+", listed[1]))
