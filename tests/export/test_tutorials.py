"""Every command of the tutorials, run on small models; those of the re-ranker are parsed (test_rerank.py runs them)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from embedship.commands import main

from .conftest import HIDDEN, Make, adapted, base_of

DOCS = Path(__file__).parents[2] / "docs"
WORDS = ("read", "write", "open", "close", "file", "folder", "list", "set", "map", "key")


def commands(page: str) -> list[str]:
    return re.findall(r"^    (embedship .*)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)


def run(line: str) -> None:
    """Run a command with the sizes of the small models, and with the plain variant only."""
    words = [word.replace("768", str(HIDDEN)).replace("256", str(HIDDEN // 2)) for word in shlex.split(line)[1:]]
    if words[0] == "export":
        words += ["--texts", "texts.jsonl", "--variants", "onnx"]
    assert main.run([*words, "--json"]) == 0, line


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the tutorials assume: a corpus, labelled queries, and texts for the gates."""
    texts = [f"{a} the {b}" for a in WORDS for b in WORDS[:4]]
    (tmp_path / "eval").mkdir()
    for name, key in (("corpus.jsonl", "id"), ("eval/corpus.jsonl", "_id"), ("eval/queries.jsonl", "_id")):
        lines = (json.dumps({key: str(row), "text": text}) + "\n" for row, text in enumerate(texts[:20]))
        (tmp_path / name).write_text("".join(lines))
    judged = "".join(f"{row}\t{row}\t1\n" for row in range(20))
    (tmp_path / "eval" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_matryoshka_tutorial_runs(workspace: Path, tiny: Path) -> None:
    shutil.copytree(tiny, workspace / "model")
    (workspace / "model" / "README.md").write_text(f'"matryoshka_dims": [{HIDDEN}, {HIDDEN // 2}]')
    for line in commands("tutorial-matryoshka.md"):
        run(line)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "tutorial-matryoshka.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("256", str(HIDDEN // 2)), names)
    assert names["vectors"].shape == (2, HIDDEN // 2)


def test_the_lora_tutorial_runs(workspace: Path, checkpoint: Make) -> None:
    adapter = adapted(checkpoint, workspace / "made", whole=False)
    (workspace / "adapter").symlink_to(adapter)
    (workspace / "base").symlink_to(base_of(adapter))
    for line in commands("tutorial-lora.md"):
        run(line)


def test_the_commands_of_the_re_ranker_tutorial_exist() -> None:
    lines = commands("tutorial-reranker.md")
    assert len(lines) == 3
    for line in lines:
        _, name, *arguments = shlex.split(line)
        group: Any = typer.main.get_command(main._app([name]))
        group.commands[name].make_context(name, arguments)
