"""docs/alerts.md: its commands run, its configurations are such, and it says which alerts page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from embedship.monitor.assets.alert import AlertSeverity
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


def test_the_commands_lead_from_nothing_to_tested_rules(live: Any, promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "embedship").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m embedship "$@"\n')
    (tmp_path / "bin" / "embedship").chmod(0o755)
    serve, init, check, test = BLOCKS[0].splitlines()
    assert serve.split()[:2] == ["embedship", "serve"]
    assert "embedship_ready 1.0" in httpx.get(f"{live.url}/metrics", timeout=60).text, "as such a process answers"
    run(init, promtool, tmp_path)
    assert "SUCCESS" in run(check, promtool, tmp_path)
    assert test == "promtool test rules assets/rules.test.yaml", (
        "it is run by tests/monitor/assets, for it takes a while"
    )
    (tmp_path / "prometheus.yml").write_text(BLOCKS[1])
    assert "SUCCESS" in run("promtool check config prometheus.yml", promtool, tmp_path)
    for name in re.findall(r"^\| `([\w./]+)` \|", PAGE, re.MULTILINE):
        assert (tmp_path / "assets" / name).exists(), name


def test_pages_and_warnings_go_different_ways(tool: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "alertmanager.yml").write_text(BLOCKS[2])
    for severity, receiver in ((AlertSeverity.PAGE, "pager"), (AlertSeverity.WARN, "mail")):
        command = [tool("amtool"), "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}"]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (answer.returncode, answer.stdout.strip()) == (0, receiver), answer.stderr
    (address,) = re.findall(r"`(alerting: .*?)`\s+in\s+`prometheus.yml`", PAGE)
    assert yaml.safe_load(address).keys() == {"alerting"}


def test_grafana_is_told_what_it_knows() -> None:
    """By the names of its provisioning files; no Grafana was at hand."""
    source, dashboards = (yaml.safe_load(block) for block in BLOCKS[3:5])
    assert source["datasources"][0]["type"] == "prometheus"
    assert dashboards["providers"][0]["type"] == "file"
    down = next(alert for alert in ALERTS if alert.name == "EmbedshipDown")
    assert down.severity is AlertSeverity.PAGE


def test_it_names_the_alerts_that_page() -> None:
    paragraph = next(each for each in PAGE.split("\n\n") if "A **page**" in each)
    assert set(re.findall(r"`(Embedship\w+)`", paragraph)) == {
        a.name for a in ALERTS if a.severity is AlertSeverity.PAGE
    }
    assert set(re.findall(r"`(Embedship\w+)`", PAGE)) <= {alert.name for alert in ALERTS}
