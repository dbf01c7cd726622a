"""The commands of three pages of docs/, run in their order; their answers are what the page prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


@contextmanager
def serving(command: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The server that the page starts, on a free port; yields its address."""
    arguments = [*command.split(), "--port", "0"]
    with subprocess.Popen(arguments, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(line.split("listening on ")[1].strip() for line in server.stderr if "listening on " in line)
        finally:
            server.terminate()
            server.stderr.read()


def obey(page: str, bundle: Path, folder: Path) -> int:
    """Run what the page shows, in `folder`, and hold the answers against those it prints; returns how many steps."""
    steps = re.findall(r"^\$ (.+)\n((?!\$ |```).+)?", page, re.MULTILINE)
    given = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    names = ("corpus.jsonl", "changes.jsonl") if given else ()
    for name, text in zip(names, given, strict=True):
        (folder / name).write_text(text)
    (folder / "bundle").symlink_to(bundle)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    url = "no server yet"
    with ExitStack() as stack:
        for command, printed in steps:
            if command.startswith("embedship serve"):
                url = stack.enter_context(serving(command, folder, environment))
                continue
            here = command.replace("http://127.0.0.1:8080", url)
            asked = ["timeout", "120", "bash", "-c", here]
            answer = subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert answer.returncode == 0, f"{command}\n{answer.stdout}\n{answer.stderr[-1000:]}"
            pattern = ".*".join(re.escape(part) for part in printed.split("…"))
            said = f"{command}\nanswered {answer.stdout}\nthe page says {printed}"
            assert re.fullmatch(pattern, answer.stdout.strip()), said
    return len(steps)


def test_the_page_does_what_it_says(bundle: Path, tmp_path: Path) -> None:
    assert obey((DOCS / "documents.md").read_text(), bundle, tmp_path) == 13


def test_the_page_about_milvus_does_what_it_says(bundle: Path, tmp_path: Path) -> None:
    assert obey((DOCS / "milvus.md").read_text(), bundle, tmp_path) == 8


def test_the_quickstart_does_what_it_says(bundle: Path, tmp_path: Path) -> None:
    """Its export and verify are those of the README, which tests/test_readme.py runs."""
    page = (DOCS / "quickstart.md").read_text()
    (export,) = re.findall(r"^    CHECKPOINT=.*\n    embedship export .*\n", page, re.MULTILINE)
    readme = (DOCS.parent / "README.md").read_text()
    assert export in readme
    assert "\n    embedship verify bundle\n" in page
    assert "\n    embedship verify bundle\n" in readme
    (tmp_path / "docs").symlink_to(DOCS)
    assert obey(page, bundle, tmp_path) == 6
