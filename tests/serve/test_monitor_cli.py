"""`embedship monitor init`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from embedship.cli import run
from embedship.monitor.assets import shipped


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
