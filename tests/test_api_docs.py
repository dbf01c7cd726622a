"""The commands of docs/api.md, run against a server, and their answers held against what the page prints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pages import Example, check, examples

EXAMPLES = examples("api.md")


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    command = [sys.executable, "-P", "-m", "embedship", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        yield next(line.split("listening on ")[1].strip() for line in server.stderr if "listening on " in line)
        server.terminate()
        server.stderr.read()


def test_every_family_has_an_example() -> None:
    shown = {re.findall(r":8080(/[a-z0-9/_]*)", command)[0] for command, _ in EXAMPLES}
    wanted = {"/v1/embeddings", "/v1/models", "/embed", "/", "/similarity", "/tokenize", "/decode", "/info"}
    assert shown >= wanted | {"/embeddings", "/models", "/v2/embed", "/v1/encode"}


@pytest.mark.parametrize("example", EXAMPLES, ids=[command[:60] for command, _ in EXAMPLES])
def test_an_answer_is_as_printed(url: str, example: Example) -> None:
    check(url, example)
