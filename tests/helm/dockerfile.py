"""Parser for Dockerfiles: instructions with continued lines joined, grouped by stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[2] / "helm" / "images"
IMAGES = [FOLDER / "cpu.Dockerfile", FOLDER / "gpu.Dockerfile"]
RAY = FOLDER / "ray.Dockerfile"


class Instruction(NamedTuple):
    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(" ", 1)) for line in joined.splitlines() if line]


def stages(path: Path) -> list[list[Instruction]]:
    """Return the stages; each begins with its FROM instruction."""
    found: list[list[Instruction]] = []
    for each in instructions(path):
        if each.name == "FROM":
            found.append([])
        if found:
            found[-1].append(each)
    return found
