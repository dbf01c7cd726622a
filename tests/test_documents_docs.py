"""The commands of docs/documents.md, run in their order, and their answers held against what the page prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "documents.md").read_text()
CORPUS, CHANGES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
STEPS = re.findall(r"^\$ (.+)\n((?!\$ |```).+)?", PAGE, re.MULTILINE)


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


def test_the_page_does_what_it_says(bundle: Path, tmp_path: Path) -> None:
    assert len(STEPS) == 13
    (tmp_path / "bundle").symlink_to(bundle)
    (tmp_path / "corpus.jsonl").write_text(CORPUS)
    (tmp_path / "changes.jsonl").write_text(CHANGES)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    url = "no server yet"
    with ExitStack() as stack:
        for command, printed in STEPS:
            if command.startswith("embedship serve"):
                url = stack.enter_context(serving(command, tmp_path, environment))
                continue
            here = command.replace("http://127.0.0.1:8080", url)
            asked = ["timeout", "120", "bash", "-c", here]
            answer = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert answer.returncode == 0, f"{command}\n{answer.stdout}\n{answer.stderr[-1000:]}"
            pattern = ".*".join(re.escape(part) for part in printed.split("…"))
            said = f"{command}\nanswered {answer.stdout}\nthe page says {printed}"
            assert re.fullmatch(pattern, answer.stdout.strip()), said
