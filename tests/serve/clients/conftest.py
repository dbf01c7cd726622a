"""A virtual environment of the clients' own, because some of their pins clash with this project's."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
REQUIREMENTS = HERE / "requirements.txt"

Ask = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of `.venvs/clients-<hash of the requirements>`, built once, in a minute."""
    folder = ROOT / ".venvs" / f"clients-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    python, done = folder / "bin" / "python", folder / ".installed"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            venv.create(folder, clear=True, with_pip=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
            done.touch()
    return python


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
