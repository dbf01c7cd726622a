"""Hooks of mkdocs: files outside docs/ that pages link to become part of the site, so that no link is dead.

Pages name such files by their path in the repository (`../benchmarks/results/x.json`), which also works where the
repository is browsed. In the site the same file has the same path below the root. A link to a file that does not exist
stays as it is, and the strict build fails on it.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "helm")
_OUTSIDE = re.compile(r"\]\(\.\./((?:" + "|".join(FOLDERS) + r")/[^)#\s]*)")


def linked(config: MkDocsConfig) -> set[str]:
    """Paths, relative to the repository, of the existing files outside docs/ that pages link to."""
    pages = Path(config.docs_dir).glob("*.md")
    names = {name for page in pages for name in _OUTSIDE.findall(page.read_text(encoding="utf-8"))}
    return {name for name in names if (ROOT / name).is_file()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files; Markdown ones are copied as text, because their own links lead elsewhere."""
    for name in sorted(linked(config)):
        files.append(File.generated(config, _published(name), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the copies inside the site."""
    here = linked(config)

    def replace(match: re.Match[str]) -> str:
        return f"]({_published(match[1])}" if match[1] in here else match[0]

    return _OUTSIDE.sub(replace, markdown)


def _published(name: str) -> str:
    return f"{name}.txt" if name.endswith(".md") else name
