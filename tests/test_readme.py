"""The README's commands, run, and their answers compared with what it prints."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^\$ (curl .+)\n((?:[^`\n].*\n)+)", README, re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
COMMAND = [sys.executable, "-P", "-m", "embedship"]


EXPORT = re.search(r"^    CHECKPOINT=.*\n    embedship export .*\n", README, re.MULTILINE)


def step(line: str) -> list[str]:
    """A command of "Step by step", as this machine runs it."""
    assert f"    embedship {line}\n" in README
    return [*COMMAND, *line.split()]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service that the README starts, with the bundle that it exports and an index over its example corpus."""
    work = tmp_path_factory.mktemp("readme")
    (work / "docs").symlink_to(ROOT / "docs")
    assert EXPORT, "README shows how to export"
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", EXPORT[0]], cwd=work, env=here, check=True, capture_output=True)
    subprocess.run(step("verify bundle"), cwd=work, check=True, capture_output=True)
    index = "index bundle docs/example/corpus.jsonl --out index"
    subprocess.run(step(index), cwd=work, check=True, capture_output=True)
    serve = [*step("serve bundle --index index"), "--port", "0"]
    with subprocess.Popen(serve, cwd=work, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        yield next(line.split("listening on ")[1].strip() for line in server.stderr if "listening on " in line)
        server.terminate()
        server.stderr.read()
    assert server.returncode == 0


def test_there_is_an_example_of_each_endpoint() -> None:
    shown = {re.sub(r".*:8080(/\S*).*", r"\1", command) for command, _ in EXAMPLES}
    wanted = {"/search", "/v1/embeddings", "/embed", "/health", "/ready", "/info", "/metrics", "/openapi.json"}
    assert shown == wanted


@pytest.mark.parametrize(("command", "printed"), EXAMPLES, ids=[c[:70] for c, _ in EXAMPLES])
def test_an_endpoint_answers_as_printed(url: str, command: str, printed: str) -> None:
    here = command.replace("http://127.0.0.1:8080", url)
    answer = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=60, check=True).stdout
    pattern = ".*".join(_literal(part) for part in printed.strip().split("…"))
    match = re.fullmatch(pattern, answer.strip(), re.DOTALL)
    assert match, f"{command}\nanswered {answer[:500]}\nREADME says {printed}"
    for shown, measured in zip(NUMBER.findall(printed), match.groups(), strict=True):
        assert math.isclose(float(shown), float(measured), abs_tol=0.03), f"{shown} printed, {measured} measured"


def _literal(text: str) -> str:
    """A pattern for text in which every decimal number may be any decimal number."""
    pieces = NUMBER.split(text)
    return rf"({NUMBER.pattern})".join(re.escape(piece) for piece in pieces)
