"""The workflows in .github and docs/example/ci are valid and safe: linters, pinned actions, permissions, secrets."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "example" / "ci"
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").iterdir()), *sorted(EXAMPLES.glob("github-*.yml"))]
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    """Read YAML without its booleans, because the key `on` of a workflow is one."""
    workflow: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)  # noqa: S506 - it makes strings only
    return workflow


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in read(path)["jobs"].values():
        yield from job["steps"]


def faults(path: Path, schema: Path) -> list[str]:
    """Return the errors by the schema that editors use."""
    document = yaml.safe_load(path.read_text())
    text = json.loads(json.dumps(document).replace('"true":', '"on":'))
    return [
        f"{error.json_path}: {error.message}"
        for error in Draft7Validator(json.loads(schema.read_text())).iter_errors(text)
    ]


def audit(zizmor: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [zizmor, "--offline", "--no-progress", "--persona", "auditor", *paths]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_zizmor_finds_nothing(tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Unpinned actions, broad permissions, kept credentials, and inputs inside scripts."""
    answer = audit(tool("zizmor"), *WORKFLOWS)
    assert answer.returncode == 0, answer.stdout
    worse = tmp_path / "release.yml"
    worse.write_text(RELEASE.read_text().replace("persist-credentials: false", "persist-credentials: true"))
    assert "artipacked" in audit(tool("zizmor"), worse).stdout


def test_the_schemas_of_both_services_accept_them(tool: Callable[[str], Path], tmp_path: Path) -> None:
    schemas = tool("ci-schemas")
    for path in WORKFLOWS:
        assert faults(path, schemas / "github-workflows.json") == [], path.name
    assert faults(EXAMPLES / "gitlab.yml", schemas / "gitlab-ci.json") == []
    worse = tmp_path / "release.yml"
    worse.write_text(RELEASE.read_text().replace("timeout-minutes:", "timeout:"))
    assert faults(worse, schemas / "github-workflows.json")


@each_workflow
def test_a_step_cannot_fail_unseen_or_run_forever(path: Path) -> None:
    workflow = read(path)
    assert workflow["defaults"]["run"]["shell"] == "bash", "otherwise only the last command of a pipe counts"
    assert workflow["permissions"] == {}, "each job names its own"
    assert all("timeout-minutes" in job and "permissions" in job for job in workflow["jobs"].values())
    assert not any("continue-on-error" in step for step in steps(path))


@each_workflow
def test_an_action_is_pinned_and_says_its_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []
    assert len({each.split("@")[0] for each in used}) == len(set(used)), "one version of each action"


def test_python_is_installed_before_pip_is_used() -> None:
    """The system's Python refuses `pip install` (PEP 668)."""
    for path in WORKFLOWS:
        for job in read(path)["jobs"].values():
            order = [
                "setup" if "setup-python" in step.get("uses", "") else "pip"
                for step in job["steps"]
                if "setup-python" in step.get("uses", "")
                or re.search(r"\bpip install|\bmake test", step.get("run", ""))
            ]
            assert order in ([], ["setup", "pip"]), path.name
    for path in (EXAMPLES / "github-bundle.yml", EXAMPLES / "gitlab.yml"):
        assert "/whl/cpu" in path.read_text(), "torch of the default index brings CUDA"
        assert "--constraint" in path.read_text()


def test_a_release_is_scanned_before_an_image_is_built() -> None:
    jobs = read(RELEASE)["jobs"]
    runs = [step.get("run", "") for step in jobs["test"]["steps"]]
    assert "make audit secrets" in runs
    assert jobs["image"]["needs"] == "test"


def test_reports_are_kept_when_a_gate_fails() -> None:
    for path, name in ((EXAMPLES / "github-bundle.yml", "reports"), (EXAMPLES / "github-deploy.yml", "comparison")):
        (step,) = [each for each in steps(path) if each.get("with", {}).get("name") == name]
        assert step["if"] == "always()"
    assert read(EXAMPLES / "gitlab.yml")["bundle"]["artifacts"]["when"] == "always"


def test_an_image_gets_its_tag_after_it_was_started_and_signed() -> None:
    names = [step.get("name", "") for step in read(RELEASE)["jobs"]["image"]["steps"]]
    order = ["build with a bill of materials and provenance, push without a tag", "the image starts", "sign", "tag"]
    assert [name for name in names if name in order] == order
    (build,) = [step["with"] for step in steps(RELEASE) if "build-push-action" in step.get("uses", "")]
    assert "push-by-digest=true" in build["outputs"]
    assert "tags" not in build
    assert build["sbom"] == "true"
    files = {each["file"] for each in read(RELEASE)["jobs"]["image"]["strategy"]["matrix"]["include"]}
    assert files == {path.stem for path in (ROOT / "helm" / "images").glob("*.Dockerfile")}


def test_releases_are_named_by_digest() -> None:
    """An image or chart that is signed, checked or deployed by tag could be replaced in between."""
    for path in (RELEASE, EXAMPLES / "github-deploy.yml"):
        for line in (line for step in steps(path) for line in step.get("run", "").splitlines()):
            if "cosign sign" in line:
                assert line.endswith('@$DIGEST"'), line
    deploy = (EXAMPLES / "github-deploy.yml").read_text()
    assert "image.tag" not in deploy
    assert deploy.count('grep --line-regexp "Digest: $CHART_DIGEST"') == deploy.count("helm pull") == 2
