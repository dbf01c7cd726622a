"""The demo, whole: what `make demo DEMO_ARGS=--once` runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


def demo(folder: Path) -> str:
    command = [sys.executable, "-P", "-m", "embedship", "demo", "--once", "--dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the demo has run once, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo(folder)


def test_the_demo_checks_itself_and_a_second_start_reuses_what_is_valid(started: tuple[Path, str]) -> None:
    folder, first = started
    served, checkpoint = map(float, re.search(r"recall@10 (\S+) served, (\S+) by the checkpoint", first).groups())  # type: ignore[union-attr]
    assert abs(served - checkpoint) <= 0.01
    assert "drift against the bundle's reference (live) │ ok" in first

    made = (folder / "bundle" / "bundle.json").stat().st_mtime_ns
    second = demo(folder)
    assert "Reusing the bundle and the index" in second
    assert "embedship export" not in second
    assert (folder / "bundle" / "bundle.json").stat().st_mtime_ns == made


@pytest.mark.parametrize("damaged", ["bundle/tokenizer.json", "index/documents.sqlite"])
def test_what_is_damaged_is_not_reused(
    started: tuple[Path, str], damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedship import stdlib_docs
    from embedship.commands import demo as module

    folder, _ = started
    made: list[str] = []
    monkeypatch.setattr(module, "_embedship", lambda verb, *_: made.append(verb))
    corpus = module.DemoCorpus(folder, stdlib_docs.entries())
    module.prepare(corpus, Path("unused"))
    assert made == []
    whole = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(whole[:-1])
    module.prepare(corpus, Path("unused"))
    assert made == ["export", "index"]
    (folder / damaged).write_bytes(whole)
    (folder / "demo.json").write_text(module._stamp(corpus, folder / "index"))
