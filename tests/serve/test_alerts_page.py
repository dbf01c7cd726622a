"""docs/alerts.md: its commands run, its configuration is one, and it says which alerts page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from embedship.monitor.assets.alert import Severity
from embedship.monitor.assets.rules import ALERTS

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
BLOCKS = [re.sub("^    ", "", block, flags=re.MULTILINE) for block in re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)]


def run(command: str, promtool: Path, folder: Path) -> str:
    path = f"{folder / 'bin'}:{promtool.parent}:{os.environ['PATH']}"
    answer = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
    return answer.stdout


def test_the_commands_lead_from_nothing_to_tested_rules(promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "embedship").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m embedship "$@"\n')
    (tmp_path / "bin" / "embedship").chmod(0o755)
    init, check, test = BLOCKS[0].splitlines()
    run(init, promtool, tmp_path)
    assert "SUCCESS" in run(check, promtool, tmp_path)
    assert test == "promtool test rules assets/rules.test.yaml", (
        "it is run by tests/monitor/assets, for it takes a while"
    )
    (tmp_path / "prometheus.yml").write_text(BLOCKS[1])
    assert "SUCCESS" in run("promtool check config prometheus.yml", promtool, tmp_path)
    for name in re.findall(r"^\| `([\w./]+)` \|", PAGE, re.MULTILINE):
        assert (tmp_path / "assets" / name).exists(), name


def test_it_names_the_alerts_that_page() -> None:
    paragraph = next(each for each in PAGE.split("\n\n") if "A **page**" in each)
    assert set(re.findall(r"`(Embedship\w+)`", paragraph)) == {a.name for a in ALERTS if a.severity is Severity.PAGE}
    assert set(re.findall(r"`(Embedship\w+)`", PAGE)) <= {alert.name for alert in ALERTS}
