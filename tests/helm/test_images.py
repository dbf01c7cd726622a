"""Checks of the Dockerfiles that need no container engine. tests/interop runs their RUN lines."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.output.json import JsonV1Dot6

from .conftest import ROOT
from .dockerfile import IMAGES, RAY, Instruction, instructions, stages
from .manifests import one, render, server

CPU, GPU = IMAGES
SBOM = runpy.run_path(str(ROOT / "tools" / "sbom.py"))


@pytest.mark.parametrize("image", [*IMAGES, RAY], ids=lambda path: path.stem)
def test_hadolint_finds_nothing(image: Path, tool: Callable[[str], Path]) -> None:
    answer = subprocess.run([tool("hadolint"), image], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_what_runs_is_small_and_nobody(image: Path) -> None:
    build, final = stages(image)
    assert any("--require-hashes" in each.text for each in build if each.name == "RUN")
    assert not any("pip" in each.text for each in final if each.name == "RUN")
    (user,) = [each.text for each in final if each.name == "USER"]
    assert user == "65532:65532"
    labels = " ".join(each.text for each in final if each.name == "LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert [each.name for each in final].count("HEALTHCHECK") == 1


def test_the_two_images_differ_in_their_libraries_only() -> None:
    def common(path: Path) -> list[Instruction]:
        found = [each for each in instructions(path) if each.name not in ("ENV", "LABEL")]
        return [each._replace(text=re.sub(r"(?<=EXTRAS=)\w+|&& find .*? -delete ", "", each.text)) for each in found]

    assert common(CPU) == common(GPU)


@pytest.mark.parametrize(
    ("image", "default"),
    [(CPU, "cpu,pull,sign,otel"), (GPU, "gpu,pull,sign,otel"), (RAY, "cpu,ray,parquet,pull,sign")],
    ids=["cpu", "gpu", "ray"],
)
def test_the_extras_of_an_image_can_be_chosen(image: Path, default: str) -> None:
    """`--build-arg EXTRAS=...`: the default names extras of pyproject.toml, and pip installs the file of that name."""
    build, _ = stages(image)
    assert [each.text for each in build if each.name == "ARG"] == [f"EXTRAS={default}"]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(default.split(",")) <= declared.keys()
    (run,) = [each.text for each in build if each.name == "RUN"]
    assert '--require-hashes --requirement "requirements/${EXTRAS}.txt"' in run
    assert "--no-deps --no-build-isolation ." in run, "nothing else is downloaded"
    assert (ROOT / "helm" / "images" / "requirements" / f"{default}.txt").exists()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "helm" / "images" / "requirements").glob("*.txt")), ids=lambda p: p.stem
)
def test_the_packages_of_an_image_have_hashes_and_the_tested_versions(path: Path) -> None:
    """`make requirements` writes the file from constraints.txt; this notices that one of them has changed alone."""
    packages = SBOM["components"](path.read_text())
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[:60])
    tested = {canonical(name): version.strip() for name, version in pinned.items()}
    assert all(each.hashes for each in packages)
    versions = {canonical(each.name): each.version for each in packages}
    assert {name: tested.get(name, version) for name, version in versions.items()} == versions
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*declared["dependencies"], *needs(declared["optional-dependencies"], path.stem.split(","))]
    assert {canonical(re.split(r"[\[<>=!~;]", each)[0]) for each in wanted} | {"setuptools"} <= versions.keys()


def needs(extras: dict[str, list[str]], names: list[str]) -> list[str]:
    """The requirements of some extras, which may name others, as in embedship[server]."""
    found = []
    for each in (line for name in names for line in extras[name]):
        inner = re.fullmatch(r"embedship\[([^]]+)\]", each)
        found += needs(extras, inner[1].split(",")) if inner else [each]
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def test_the_bill_of_materials_of_an_image_has_every_package() -> None:
    path = ROOT / "helm" / "images" / "requirements" / "cpu,pull,sign,otel.txt"
    written = json.loads(JsonV1Dot6(SBOM["bom"](path)).output_as_string())
    assert len(written["components"]) == len(re.findall(r"^\S+==", path.read_text(), re.M))
    onnxruntime = next(each for each in written["components"] if each["name"] == "onnxruntime")
    assert onnxruntime["purl"] == f"pkg:pypi/onnxruntime@{onnxruntime['version']}"
    assert onnxruntime["hashes"]


def test_the_ray_image_is_built_as_the_others_and_starts_nothing() -> None:
    """KubeRay sets the command. Only the installed extras differ."""
    build, final = stages(RAY)
    assert [each for each in build if each.name == "COPY"] == [each for each in stages(CPU)[0] if each.name == "COPY"]
    assert [each.text for each in final if each.name == "USER"] == ["65532:65532"]
    assert {"ENTRYPOINT", "CMD", "HEALTHCHECK"} & {each.name for each in final} == set()


def test_the_build_gets_what_it_copies_and_no_more() -> None:
    """.dockerignore allows only the files that a COPY names: no .git, no bundle, no key file."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for each in stages(CPU)[0]
        if each.name == "COPY"
        for source in each.text.split()[:-1]
    }  # fmt: skip
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_chart_runs_what_the_image_holds(helm: Path) -> None:
    final = {each.name: each.text for each in stages(CPU)[1]}
    container = server(render(helm))
    assert container["command"] == ["embedship"]
    assert final["ENTRYPOINT"] == '["embedship"]'
    assert final["EXPOSE"] == str(container["ports"][0]["containerPort"])
    pod = one(render(helm), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert final["USER"] == f"{pod['runAsUser']}:{pod['runAsGroup']}"
