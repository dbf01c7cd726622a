"""The commands of docs/drift.md, and the one of its CronJob, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from embedship import stdlib_docs
from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.monitor import snapshot
from embedship.monitor.recall.feedback import JudgedQuery
from embedship.monitor.snapshot import MonitorState

from .commands.test_drift import COOKING, copied, write

PAGE = (Path(__file__).parents[2] / "docs" / "drift.md").read_text()
COMMANDS = re.findall(r"^    embedship (.+)$", PAGE, re.MULTILINE)
(NIGHTLY,) = re.findall(r"command: \[embedship, (.+)\]", PAGE)


def test_the_page_as_it_stands(
    bundle: Path, index_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [entry.summary for entry in stdlib_docs.entries(300)]
    write(tmp_path / "past.jsonl", texts[::2])
    write(tmp_path / "recent.jsonl", [*texts[1::2], *COOKING])
    copied(bundle, tmp_path / "bundle")
    (tmp_path / "index").symlink_to(index_folder)
    (tmp_path / "state").mkdir()
    pair = JudgedQuery(query="open a file", relevant=(stdlib_docs.entries(60)[0].id,), recall=0.0)
    snapshot.write(
        tmp_path / "state", MonitorState(fingerprint=Bundle.open(bundle).fingerprint, created=0.0, pairs=(pair,)), None
    )
    monkeypatch.chdir(tmp_path)
    assert [run(shlex.split(command)) for command in COMMANDS] == [0, 3, 0]
    assert {"bundle.reference.safetensors", "drift.html", "training.jsonl", "training.unlabelled.jsonl",
            "training.about.json"} <= {path.name for path in tmp_path.iterdir()}  # fmt: skip
    assert run(NIGHTLY.split(", ")) == 3
