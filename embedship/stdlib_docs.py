"""Documentation of Python's standard library: real text that every machine has.

It is read from the sources of the running interpreter. The first line of a docstring is the query, the rest is the
document. The demo uses it, and export calibrates and measures with it if the user gives no texts.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple


class DocEntry(NamedTuple):
    """One documented object: its dotted name, first line and remaining docstring."""

    id: str
    summary: str
    body: str


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Not documentation: test suites, vendored packages, generated tables.
_SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "ensurepip",
    "__pycache__",
    "pydoc_data",
    "turtledemo",
}
_SHORTEST_BODY = 60


def entries(limit: int | None = None) -> list[DocEntry]:
    """Return all documented objects with a summary line and a body, without duplicates, in a stable order.

    With `limit`, return at most `limit` objects, evenly spaced in this order.
    """
    every = _distinct()
    return list(every if limit is None else every[:: max(1, len(every) // limit)][:limit])


@cache
def _distinct() -> tuple[DocEntry, ...]:
    distinct: list[DocEntry] = []
    seen: set[str] = set()
    for entry in _entries():
        if not {entry.summary, entry.body} & seen:
            seen |= {entry.summary, entry.body}
            distinct.append(entry)
    return tuple(distinct)


def _entries() -> Iterator[DocEntry]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(_sources(root)):
        parts = path.relative_to(root).with_suffix("").parts
        yield from _documented(path, ".".join(part for part in parts if part != "__init__"))


def _sources(root: Path) -> Iterator[Path]:
    """Yield the source files. Skipped folders are not entered, because they contain most of the files."""
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if _is_documentation(name)]
        yield from (
            Path(folder, name) for name in files if name.endswith(".py") and _is_documentation(name[: -len(".py")])
        )


def _is_documentation(name: str) -> bool:
    return name not in _SKIPPED and not _is_private(name)


def _documented(path: Path, module: str) -> Iterator[DocEntry]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for name, node in _walk(tree, module):
        lines = (ast.get_docstring(node) or "").strip().splitlines()
        body = "\n".join(lines[1:]).strip()
        if lines and len(lines[0].split()) >= 3 and len(body) >= _SHORTEST_BODY:
            yield DocEntry(name, lines[0].strip(), body)


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, _Documented]]:
    if isinstance(node, _Documented):
        yield name, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not _is_private(child.name):
            yield from _walk(child, f"{name}.{child.name}")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def origin() -> str:
    """Return the name and version of the source of the texts."""
    return f"standard library of Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
