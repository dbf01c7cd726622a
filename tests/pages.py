"""Examples of a page of docs/: a command that asks a server, and the line that it answers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"


class Example(NamedTuple):
    command: str
    printed: str  # as the page shows it, … for what differs


def examples(page: str) -> list[Example]:
    found = re.findall(r"^\$ (curl .+)\n(.+)", (DOCS / page).read_text(), re.MULTILINE)
    return [Example(*each) for each in found]


def check(url: str, example: Example) -> None:
    """Run it against the server at `url`, and hold its answer against what the page prints."""
    here = example.command.replace("http://127.0.0.1:8080", url)
    answer = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=60, check=True).stdout
    pattern = ".*".join(re.escape(part) for part in example.printed.split("…"))
    said = f"{example.command}\nanswered {answer[:600]}\nthe page says {example.printed}"
    assert re.fullmatch(pattern, answer.strip()), said
