"""The packaged chart: what Artifact Hub and a user without a checkout find in it."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..helm.manifests import CHART

ROOT = Path(__file__).parents[2]
SOURCE = "https://code.example/team/embedship"


@pytest.fixture(scope="module")
def packed(tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the commands of the release workflow's step, and unpack the package."""
    folder = tmp_path_factory.mktemp("packed")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    (step,) = [each["run"] for each in workflow["jobs"]["chart"]["steps"] if each.get("name") == "package"]
    (folder / "helm").symlink_to(tool("helm-3.17"))
    (folder / "tools").symlink_to(ROOT / "tools")
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin", "REGISTRY": "registry.example/team", "GITHUB_SERVER_URL": "https://code.example",
        "GITHUB_REPOSITORY": "team/embedship",
    }  # fmt: skip
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", step], cwd=folder, env=environment, check=True, capture_output=True
    )
    with tarfile.open(next((folder / "dist").iterdir())) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return folder / "unpacked" / "embedship"


def test_licence_and_readme_survive(packed: Path) -> None:
    for name in ("LICENSE", "README.md", "values.schema.json"):
        assert (packed / name).read_bytes() == (CHART / name).read_bytes(), name
    assert (packed / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    links = re.findall(r"\]\(([^)]+)\)", (packed / "README.md").read_text())
    assert [link for link in links if not link.startswith("https://")] == [], "there is no checkout around a package"


def test_artifact_hub_finds_its_fields(packed: Path) -> None:
    chart: dict[str, Any] = yaml.safe_load((packed / "Chart.yaml").read_text())
    assert chart["home"] == SOURCE
    assert chart["sources"] == [SOURCE]
    notes = {key.removeprefix("artifacthub.io/"): value for key, value in chart["annotations"].items()}
    assert notes["license"] == "Apache-2.0"
    images = {each["name"]: each["image"] for each in yaml.safe_load(notes["images"])}
    version = chart["appVersion"]
    assert images == {
        "cpu": f"registry.example/team/embedship:{version}",
        "gpu": f"registry.example/team/embedship:{version}-gpu",
        "ray": f"registry.example/team/embedship:{version}-ray",
    }
    assert set(images) == {path.stem for path in (ROOT / "helm" / "images").glob("*.Dockerfile")}
    for link in yaml.safe_load(notes["links"]):
        page = link["url"].removeprefix(f"{SOURCE}/blob/v{version}/")
        assert (ROOT / page).is_file(), link
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert all(each["kind"] in kinds and each["description"] for each in yaml.safe_load(notes["changes"]))
    assert "signKey" not in notes, "signatures of cosign need none"


def test_a_key_for_provenance_is_named(tmp_path: Path) -> None:
    command = [
        "python3",
        "-P",
        ROOT / "tools" / "release_chart.py",
        tmp_path / "c",
        "--registry",
        "r",
        "--source",
        SOURCE,
    ]
    subprocess.run([*command, "--sign-key", "AB12=https://keys.example/key.asc"], check=True)
    notes = yaml.safe_load((tmp_path / "c" / "Chart.yaml").read_text())["annotations"]
    wanted = {"fingerprint": "AB12", "url": "https://keys.example/key.asc"}
    assert yaml.safe_load(notes["artifacthub.io/signKey"]) == wanted
