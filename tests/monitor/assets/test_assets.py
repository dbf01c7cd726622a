"""Alerts, rules, runbooks and dashboard: one description, true to its promises, read by Prometheus' own tool."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from embedship.monitor.assets import RUNBOOKS, shipped
from embedship.monitor.assets.alert import Alert, AlertSeverity, shown
from embedship.monitor.assets.cases import written
from embedship.monitor.assets.recording import RATIOS
from embedship.monitor.assets.rules import ALERTS, rules
from embedship.monitor.assets.write import assets, write

SECONDS = 600  # on two busy cores all cases take four minutes
NAMES = [alert.name for alert in ALERTS]
PAGES = {"Absent", "Down", "NotReady", "HighErrorRate", "CanaryFailed", "RecallFell", "ProbeRecallFell"}
METRICS = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()


def check(promtool: Path, *arguments: str, cwd: Path) -> str:
    """Its output; the test fails with it if promtool does."""
    answer = subprocess.run(
        [promtool, *arguments], cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def test_what_is_shipped_is_what_is_described() -> None:
    assert shipped() == assets(), "run `make assets` and commit what it writes"


def test_writing_again_removes_what_is_no_longer_there(folder: Path) -> None:
    (folder / "runbooks" / "EmbedshipForgotten.md").touch()
    write(folder)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == set(shipped())


def test_prometheus_takes_the_rules(promtool: Path, folder: Path) -> None:
    assert f"SUCCESS: {len(ALERTS) + len(RATIOS)} rules found" in check(
        promtool, "check", "rules", "rules.yaml", cwd=folder
    )


def test_each_alert_fires_where_it_should_and_alone(promtool: Path, folder: Path) -> None:
    assert "SUCCESS" in check(promtool, "test", "rules", "rules.test.yaml", cwd=folder)


def test_a_case_that_expects_the_contrary_fails(promtool: Path, tmp_path: Path) -> None:
    """Or the test above would prove nothing: here the cases of one alert are given to another."""
    (tmp_path / "rules.yaml").write_text(rules())
    (tmp_path / "swapped.yaml").write_text(written([(ALERTS[2], case) for case in ALERTS[1].fires]))
    command = [promtool, "test", "rules", "swapped.yaml"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert answer.returncode == 1
    assert f"alertname: {ALERTS[1].name}" in answer.stdout + answer.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_keeps_the_house_rules(alert: Alert) -> None:
    assert re.fullmatch(r"Embedship([A-Z][a-z]+)+", alert.name)
    assert alert.fires, "a series on which it fires"
    assert all(case.labels is not None for case in alert.fires)
    assert alert.quiet or alert.name == "none", "a series on which it does not"
    assert all(case.labels is None for case in alert.quiet)
    assert (alert.severity is AlertSeverity.PAGE) == (alert.name.removeprefix("Embedship") in PAGES)
    assert len(shown(alert.summary, alert.fires[0].labels or {}, "9")) < 80
    assert alert.summary[-1] != "."
    assert alert.description[-1] == "."
    assert "ratio" not in alert.expr.replace("ratio_rate", ""), "no bare ratio: ask for a state, or divide counters"
    for text in (alert.summary, alert.description):
        assert "{{" not in shown(text, alert.fires[0].labels or {}, "9"), "a template that is not one of ours"


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_reads_only_series_that_exist(alert: Alert) -> None:
    recorded = {
        rule["record"] for group in yaml.safe_load(rules())["groups"] for rule in group["rules"] if "record" in rule
    }
    for name in re.findall(r"embedship[:\w]+", alert.expr):
        assert name in recorded or f"`{re.sub('_(bucket|count|sum)$', '', name)}`" in METRICS, name


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_there_is_a_runbook_that_says_what_to_do(alert: Alert) -> None:
    text = shipped()[f"runbooks/{alert.name}.md"]
    assert re.findall("^##? (.*)$", text, re.MULTILINE) == [
        alert.name, "Meaning", "Impact", "Diagnosis", "Mitigation",
    ]  # fmt: skip
    assert alert.expr.strip() in text
    for metric in re.findall(r"embedship_\w+", text):
        assert f"`{re.sub('_(bucket|count|sum)$', '', metric)}`" in METRICS, f"{metric} is no metric of ours"
    for other in re.findall(r"Embedship\w+", text):
        assert other in NAMES
    assert f"[{alert.name}]({alert.name}.md)" in shipped()["runbooks/README.md"]


def test_the_alerts_link_to_their_runbooks() -> None:
    for group in yaml.safe_load(shipped()["rules.yaml"])["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}/{rule['alert']}.md"
                assert f"{rule['annotations']['runbook_url']}" in shipped()


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(shipped()["dashboard.json"])["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_one_for_grafana() -> None:
    text = shipped()["dashboard.json"]
    board = json.loads(text)
    assert Dashboard.from_json(board).title == "embedship"
    assert [row["title"] for row in board["panels"] if row["type"] == "row"] == [
        "Service",
        "Devices",
        "Quality",
        "Drift",
        "Re-ranking",
    ]
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "job", "instance"]
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"][-1] in ".?"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            assert 'job="$job", instance=~"$instance"' in target["expr"]
            assert not re.search(r"\[\d", target["expr"]), "rates are taken over $__rate_interval"


def test_panels_have_titles_of_their_own_and_do_not_overlap() -> None:
    assert max(Counter(panel["title"] for panel in panels()).values()) == 1
    cells = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in panels())
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert max(cells.values()) == 1


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_reads_only_series_that_exist(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for metric in re.findall(r"embedship_\w+", target["expr"]):
            assert f"`{re.sub('_(bucket|count|sum)$', '', metric)}`" in METRICS, metric
