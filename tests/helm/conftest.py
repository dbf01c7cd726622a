"""Both Helms that CI runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fetched(name: str) -> Path:
    answer = subprocess.run(
        [sys.executable, ROOT / "tools" / "fetch.py", name], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return Path(answer.stdout.strip())


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm 4.3."""
    return fetched("helm")


@pytest.fixture(scope="session", params=["helm", "helm-3.17"])
def each_helm(request: pytest.FixtureRequest) -> Path:
    return fetched(request.param)
