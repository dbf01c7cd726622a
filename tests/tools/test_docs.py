"""The documentation site: it builds without a warning, loads nothing from other hosts, and follows the code."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
QUIET = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
FENCED = re.compile(r"^( *)(```|~~~).*?^ *\2", re.MULTILINE | re.DOTALL)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generator", ROOT / "tools" / "docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; --strict makes a dead link or anchor and a page without a place in the navigation an error."""
    if importlib.util.find_spec("material") is None:
        give_up = pytest.fail if "CI" in os.environ else pytest.skip
        give_up("mkdocs-material is not installed: it comes with the extra [docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    answer = subprocess.run(command, cwd=ROOT, env=QUIET, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    assert {path.stem for path in PAGES} <= {path.stem for path in site.glob("*.html")}
    assert (site / "search" / "search_index.json").stat().st_size > 100_000


def test_a_page_loads_nothing_from_another_host(site: Path) -> None:
    scripts = r"<(?:script|img|iframe|source)[^>]*\ssrc="
    links = r"<link(?![^>]*canonical)[^>]*\shref="
    loads = re.compile(rf"(?:{scripts}|{links}|url\()[\"']?(?:https?:)?//")
    for page in [*site.glob("*.html"), *site.glob("assets/stylesheets/*.css")]:
        assert not loads.search(page.read_text(encoding="utf-8")), page.name


def test_files_outside_the_docs_that_pages_link_to_are_in_the_site(site: Path) -> None:
    links = {link for page in PAGES for link in re.findall(r"\]\(\.\./([^)#]+)\)", page.read_text(encoding="utf-8"))}
    assert len(links) > 20
    for link in links:
        assert (ROOT / link).exists(), link
        assert (site / link).exists() or (site / f"{link}.txt").exists(), link


def test_the_settings_of_the_page_are_those_of_the_code() -> None:
    docs = generator()
    page = docs.PAGE.read_text(encoding="utf-8")
    assert docs.with_settings(page) == page, "docs/serving.md is out of date: run `python -P tools/docs.py`"
    assert "| `--port` | 0 to 65,535 | " in page


REFERENCE = generator().reference()


@pytest.mark.parametrize("name", REFERENCE.PAGES)
def test_the_reference_pages_are_those_of_the_code(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page == REFERENCE.PAGES[name](), f"docs/{name} is out of date: run `python -P tools/docs.py`"
    assert page.count("\n## ") > 1
    assert "Mock" not in page


# Private words and old-fashioned constructions that readers of these pages had to look up or read twice.
UNPLAIN = re.compile(
    r"\b(hostile|in company|whoever|whatsoever|likewise|besides?|hot bytes|so many|refused with a sentence|"
    r"is said|is told|is no (?:bundle|index|folder))\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_the_words_are_plain(page: Path) -> None:
    """Code, and rows that come from the code, are left out."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"^\| `(?:--|embedship_).*$|`[^`]*`", "", text, flags=re.MULTILINE)
    assert UNPLAIN.findall(" ".join(text.split())) == []
