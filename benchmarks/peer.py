"""Peer: another library in its own venv and process, controlled round by round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PATIENCE_SECONDS = 900.0


def python_of(name: str) -> Path:
    """Return the interpreter of the peer's venv. Creates it from peers/<name>.txt if it is missing or out of date."""
    wanted = (HERE / "peers" / f"{name}.txt").read_text()
    venv = HERE.parent / f".venv-{name}"
    stamp, python = venv / ".installed", venv / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing {name} into {venv.name} (first time: a few minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        requirements, pip = HERE / "peers" / f"{name}.txt", [str(python), "-m", "pip", "install", "--quiet"]
        for torch in [line for line in wanted.splitlines() if line.startswith("torch==") and "cuda" not in name]:
            index = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
            subprocess.run([*pip, "--no-deps", "--retries", "1", "--extra-index-url", index, torch], check=True)
        subprocess.run([*pip, "--requirement", str(requirements)], check=True)
        stamp.write_text(wanted)
    return python


class PeerEnded(SystemExit):
    """The peer's process ended. The benchmark also ends, unless it continues without this peer."""


class Peer:
    """One backend of a peer, loaded once. A request and its response are one line of JSON each."""

    def __init__(self, name: str, backend: str, *arguments: object, python: Path | None = None) -> None:
        """`python`: interpreter of a peer with the same pinned versions as ours. None: its own venv."""
        self.label = backend
        command = [str(python or python_of(name)), str(HERE / "peers" / f"{name}.py"), backend, *map(str, arguments)]
        log = (HERE.parent / ".bench" / f"{name}-{backend}.log").open("w")
        self._process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=log, text=True)
        self.versions: dict[str, str] = self._answer()["versions"]

    def ask(self, **request: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        """End the peer if it does not respond within the time limit."""
        assert self._process.stdout is not None
        patience = threading.Timer(_PATIENCE_SECONDS, self._process.kill)
        patience.start()
        line = self._process.stdout.readline()
        patience.cancel()
        if not line:
            raise PeerEnded(f"{self.label} ended with code {self._process.wait()}; see .bench/*-{self.label}.log")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # its own threads keep it alive, for example Infinity's
            self._process.kill()
            self._process.wait()
