"""tools/scan.py with stand-ins for the programs that it runs, because they need the internet."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCAN = Path(__file__).parents[2] / "tools" / "scan.py"


def scan(monkeypatch: pytest.MonkeyPatch, kind: str, stdout: str, code: int = 0, stderr: str = "") -> int:
    """Run the script; every program that it starts ends like this."""
    main: Any = runpy.run_path(str(SCAN))["main"]

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "git":
            return subprocess.CompletedProcess(command, 0, "README.md\0", "")
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", run)
    answer: int = main(kind, [])
    return answer


def test_a_vulnerable_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    vulnerable = {"name": "requests", "version": "2.32.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.32.4"]}]}
    safe = {"name": "numpy", "version": "2.4.6", "vulns": []}
    assert scan(monkeypatch, "packages", json.dumps({"dependencies": [safe]})) == 0
    assert scan(monkeypatch, "packages", json.dumps({"dependencies": [safe, vulnerable]}), 1) == 1
    assert "requests 2.32.0: CVE-1, fixed in 2.32.4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        (
            json.dumps({"dependencies": [{"name": "numpy", "skip_reason": "not found"}]}),
            "",
            "PyPI can be reached",
        ),
        ("", "error: failed to fetch pip-audit\n", "failed to fetch pip-audit"),
    ],
)
def test_without_the_internet_nothing_counts_as_proved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stdout: str, stderr: str, reason: str
) -> None:
    assert scan(monkeypatch, "packages", stdout, 1, stderr) == 2
    told = capsys.readouterr().err
    assert told.startswith("Nothing was proved: ")
    assert reason in told


def test_a_secret_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert scan(monkeypatch, "secrets", "") == 0
    assert scan(monkeypatch, "secrets", "Secret Type: Private Key\nLocation: key.pem:1\n", 1) == 1
    assert "key.pem:1" in capsys.readouterr().out
    assert scan(monkeypatch, "secrets", "", 1, "no such option") == 2
