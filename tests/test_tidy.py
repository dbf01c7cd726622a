"""Style that runs (after TigerBeetle's tidy test): lengths, names and widths.

The lists hold what is not tidy yet. They may only become shorter: an entry that is tidy now must be deleted.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE_COLUMNS = 100
ONE_WORD_PERCENT = 20
LONG_FUNCTIONS: frozenset[str] = frozenset()
LONG_MODULES: frozenset[str] = frozenset()
METAPHORS: frozenset[str] = frozenset()
WIDE_PAGES: frozenset[str] = frozenset({"helm/README.md", "helm/embedship/README.md"})


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The functions of tools/names.py."""
    return runpy.run_path(str(ROOT / "tools" / "names.py"))


def require(found: set[str], known: frozenset[str], fault: str) -> None:
    assert not (new := sorted(found - known)), f"{fault}: {', '.join(new)}"
    assert not (old := sorted(known - found)), f"tidy now, delete from the list in tests/test_tidy.py: {', '.join(old)}"


def test_functions_are_short(names: dict[str, Any]) -> None:
    require(set(names["long_functions"]()), LONG_FUNCTIONS, f"more than {names['FUNCTION_LINES']} lines")


def test_modules_are_short(names: dict[str, Any]) -> None:
    require(set(names["long_modules"]()), LONG_MODULES, f"more than {names['MODULE_LINES']} lines")


def test_no_class_name_is_used_twice(names: dict[str, Any]) -> None:
    assert names["used_twice"](names["classes"]()) == []


def test_most_class_names_are_more_than_one_word(names: dict[str, Any]) -> None:
    classes = names["classes"]()
    assert 100 * len(names["one_word"](classes)) < ONE_WORD_PERCENT * len(classes)


def test_no_identifier_is_a_metaphor(names: dict[str, Any]) -> None:
    require(set(names["metaphors"]()), METAPHORS, "a metaphor; say what it is")


def wide(page: Path) -> bool:
    """Whether text outside code blocks, tables and images is wider than PAGE_COLUMNS."""
    lines = "\n".join(page.read_text().split("```")[0::2]).split("\n")
    return any(len(line) > PAGE_COLUMNS and not line.startswith(("|", "    ", "![")) for line in lines)


def test_pages_wrap_at_a_readable_width() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("helm/**/*.md")]
    require({str(page.relative_to(ROOT)) for page in pages if wide(page)}, WIDE_PAGES, f"wider than {PAGE_COLUMNS}")
