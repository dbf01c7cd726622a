"""Scans the chart: share of passed checkov checks and Trivy findings, with the default values and with GPUs.

    python benchmarks/chart.py

Both scanners run in their own venv. The exit code is 1 below 95%, or if Trivy has a HIGH or CRITICAL finding.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from peer import python_of
from record import circumstances, keep

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "embedship"
IMAGE = ["image.repository=registry.example/embedship", f"image.digest=sha256:{0:064d}"]
VALUES = {"default": IMAGE, "gpu": [*IMAGE, "gpu.enabled=true", "server.devices=cuda:0", "gpu.runtimeClassName=nvidia"]}
FLOOR = 0.95
SEVERE = ("HIGH", "CRITICAL")


def scan(values: list[str], scanners: Path, folder: Path) -> dict[str, Any]:
    """Scan the rendered manifests. They have a namespace, as in an install."""
    sets = [part for value in values for part in ("--set", value)]
    command = [fetched("helm"), "template", "search", CHART, "--namespace", "embeddings", *sets]
    (folder / "chart.yaml").write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"checkov": checkov(folder, scanners), "trivy": trivy(folder, scanners)}


def fetched(tool: str) -> str:
    command = [sys.executable, ROOT / "tools" / "fetch.py", tool]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def checkov(folder: Path, scanners: Path) -> dict[str, Any]:
    command = [scanners / "checkov", "--directory", folder, "--framework", "kubernetes", "--output", "json"]
    # checkov exits with 1 if any check fails, and with 0 if it found nothing to scan.
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    passed, failed = answer["summary"]["passed"], answer["summary"]["failed"]
    assert passed > 100, "it looked at less than the chart"
    failures = sorted(f"{each['check_id']} {each['resource']}" for each in answer["results"]["failed_checks"])
    return {"passed": passed, "failed": failed, "ratio": passed / (passed + failed), "failures": failures}


def trivy(folder: Path, scanners: Path) -> dict[str, int]:
    command = [scanners / "trivy", "config", "--skip-check-update", "--format", "json", folder]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert sum(each["MisconfSummary"]["Successes"] for each in answer["Results"]) > 50, "it looked at nothing"
    found = [finding["Severity"] for each in answer["Results"] for finding in each.get("Misconfigurations", ())]
    return dict(Counter(found))


def main() -> int:
    scanners = python_of("chart_scanners").parent
    found: dict[str, Any] = {}
    for name, values in VALUES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = scan(values, scanners, Path(folder))
    keep("chart", {**circumstances(), "values": found})
    good = all(
        each["checkov"]["ratio"] >= FLOOR and not any(each["trivy"].get(level) for level in SEVERE)
        for each in found.values()
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
