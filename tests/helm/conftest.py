"""Fixtures: the Helm versions that CI runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def helm(tool: Callable[[str], Path]) -> Path:
    """Helm 4.3."""
    return tool("helm")


@pytest.fixture(scope="session", params=["helm", "helm-3.17"])
def each_helm(request: pytest.FixtureRequest, tool: Callable[[str], Path]) -> Path:
    return tool(request.param)
