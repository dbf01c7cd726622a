"""A virtual environment of the clients' own, because some of their pins clash with this project's."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

Ask = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def python(environment: Callable[[str, Path], Path]) -> Path:
    """Built in a minute."""
    return environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="session")
def ask(python: Path) -> Ask:
    """What a client makes of a server's answers."""

    def ask(url: str, client: str) -> dict[str, Any]:
        # Not offline: huggingface_hub would not ask this machine either.
        environment = {**os.environ, "HF_HUB_OFFLINE": "0", "LANGSMITH_TRACING": "false"}
        environment.pop("PYTHONWARNINGS", None)
        command = [str(python), "-P", str(HERE / "ask.py"), url, client]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    return ask
