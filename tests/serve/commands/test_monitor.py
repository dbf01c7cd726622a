"""`embedship monitor init`."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedship.commands.main import run
from embedship.monitor.assets import shipped
from embedship.monitor.assets.options import THRESHOLDS


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_what_is_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "assets"
    assert run(["monitor", "init", "--out", str(out)]) == 0
    assert files(out) == shipped()
    said = capsys.readouterr()
    assert said.out == ""
    assert "runbooks, one an alert" in said.err
    assert [path.name for path in out.parent.iterdir()] == ["assets"], "nothing is left beside it"


def test_it_says_the_same_to_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "init", "--out", str(tmp_path / "assets"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "assets"), "files": list(shipped())}


def test_alerts_link_to_where_the_runbooks_are_read(tmp_path: Path) -> None:
    assert run(["monitor", "init", "--out", str(tmp_path / "a"), "--runbooks", "https://wiki.example/embedship/"]) == 0
    found = files(tmp_path / "a")
    links = re.findall(r"runbook_url: (.*)", found["rules.yaml"])
    assert len(links) == len(re.findall("- alert:", found["rules.yaml"]))
    assert "https://wiki.example/embedship/EmbedshipDown.md" in links
    assert all(link.startswith("https://wiki.example/embedship/Embedship") for link in links)
    assert set(re.findall(r"runbook_url: (.*)", found["rules.test.yaml"])) <= set(links), "its tests still pass"
    yaml.safe_load(found["rules.yaml"])


def alerts(text: str) -> dict[str, Any]:
    groups = yaml.safe_load(text)["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def checked(promtool: Path, *arguments: str, cwd: Path) -> None:
    answer = subprocess.run([promtool, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_severities_labels_and_alerts_are_the_operators(tmp_path: Path, promtool: Path) -> None:
    """As kube-prometheus-stack has them; two alerts are left out, and the tests of the others still pass."""
    out = tmp_path / "a"
    names = ["--page", "critical", "--warn", "warning", "--label", "team=search: all", "--label", "tier=1"]
    assert run(["monitor", "init", "--out", str(out), *names, "--disable", "EmbedshipRequestsSlow"]) == 0
    before, after = alerts(shipped()["rules.yaml"]), alerts(files(out)["rules.yaml"])
    assert before.keys() - after.keys() == {"EmbedshipRequestsSlow"}
    for name, rule in after.items():
        severity = {"page": "critical", "warn": "warning"}[before[name]["labels"]["severity"]]
        assert rule == {**before[name], "labels": {"severity": severity, "team": "search: all", "tier": "1"}}
    tests = yaml.safe_load(files(out)["rules.test.yaml"])
    assert "EmbedshipRequestsSlow" not in str(tests)
    # All of them take minutes: those of one alert, with every other alert asked for.
    tests["tests"] = [test for test in tests["tests"] if test["name"].startswith("EmbedshipQueueWaiting")]
    (out / "few.yaml").write_text(yaml.dump(tests))
    checked(promtool, "test", "rules", "few.yaml", cwd=out)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_changes_its_rule_and_no_other(tmp_path: Path, promtool: Path, name: str) -> None:
    out = tmp_path / "a"
    assert run(["monitor", "init", "--out", str(out), "--threshold", f"{name}=7"]) == 0
    rules = files(out)["rules.yaml"]
    assert "rules.test.yaml" not in files(out)
    pairs = zip(shipped()["rules.yaml"].splitlines(), rules.splitlines(), strict=True)
    changed = [(before, after) for before, after in pairs if before != after]
    assert changed
    default = THRESHOLDS[name].default
    assert all(before.replace(default, "7") == after for before, after in changed)
    checked(promtool, "check", "rules", "rules.yaml", cwd=out)


def test_a_job_that_must_be_there_is_asked_for_by_name(tmp_path: Path, promtool: Path) -> None:
    out = tmp_path / "a"
    assert run(["monitor", "init", "--out", str(out), "--job", "prod/search", "--job", "staging"]) == 0
    gone = {"severity": "page", "namespace": "prod", "job": "search"}
    tests = {
        "rule_files": ["rules.yaml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'embedship_ready{namespace="prod",job="search",instance="a"}', "values": "1x20 stale"},
                    {"series": 'embedship_ready{job="staging",instance="b"}', "values": "1x200"},
                ],
                "promql_expr_test": [
                    {
                        "expr": 'ALERTS{alertname="EmbedshipAbsent", alertstate="firing"}',
                        "eval_time": "60m",
                        "exp_samples": [
                            {
                                "labels": 'ALERTS{alertname="EmbedshipAbsent", alertstate="firing", '
                                + ", ".join(f'{key}="{value}"' for key, value in gone.items())
                                + "}",
                                "value": 1,
                            }
                        ],
                    }
                ],
            }
        ],
    }
    (out / "mine.yaml").write_text(yaml.dump(tests))
    checked(promtool, "test", "rules", "mine.yaml", cwd=out)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--disable", "EmbedshipNothing"], "EmbedshipNothing"),
        (["--threshold", "patience=3"], "patience"),
        (["--threshold", "restarts=many"], "is not a number"),
        (["--label", "severity=3"], "other than severity"),
        (["--label", "team"], "is not NAME=VALUE"),
    ],
)
def test_an_option_that_is_not_known_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert run(["monitor", "init", "--out", str(tmp_path / "a"), *arguments]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    out = tmp_path / "mine"
    (out.mkdir if what == "folder" else out.touch)()
    assert run(["monitor", "init", "--out", str(out)]) == 2
    assert "exists: give another --out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]


def test_what_it_needs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "init"]) == 2
    assert run(["monitor", "unknown"]) == 2
    assert run(["monitor", "--help"]) == 0
    assert "init" in capsys.readouterr().out
