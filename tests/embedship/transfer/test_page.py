"""The commands of docs/deploy.md that push and pull, against a real registry."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from embedship.bundle import MANIFEST, Bundle
from embedship.commands import main

from . import servers

PAGE = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text()


def test_the_page_s_commands(
    docker_registry: Path, small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = re.findall(r"^    embedship ((?:push|pull) .+)$", PAGE, re.MULTILINE)
    assert [line.split()[0] for line in found] == ["push", "pull", "pull", "push"]
    with servers.registry(docker_registry, tmp_path / "registry") as served:
        here = {"/tmp/": f"{tmp_path}/", "registry.example": f"127.0.0.1:{served.port}", "minilm/ ": f"{small.folder} "}
        for line in found:
            for there, ours in here.items():
                line = line.replace(there, ours)
            assert main.run(shlex.split(line)) == 0, line
    assert (tmp_path / "carried" / MANIFEST).read_bytes() == small.path(MANIFEST).read_bytes()
