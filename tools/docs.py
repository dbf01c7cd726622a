"""Writes what comes from the code into docs/: the settings in docs/serving.md, and the pages of tools/reference.py.

    python -P tools/docs.py

`make docs` runs it. Everything is described once, in the code. tests/tools/test_docs.py fails if a page differs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

from embedship.serve.settings import Settings, flag

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "serving.md"
BEGIN, END = "<!-- settings: written by tools/docs.py -->", "<!-- end of settings -->"


def settings_table() -> str:
    """Return the Markdown table of all settings: name, allowed range, meaning."""
    lines = ["| setting | allowed | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        name = "BUNDLE" if field.name == "bundle" else flag(field.name)
        lines.append(f"| `{name}` | {field.metadata['allowed'] or '-'} | {field.metadata['help']} |")
    return "\n".join(lines)


def with_settings(page: str) -> str:
    """Return the text of the page with the table between the two markers replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{settings_table()}\n\n{END}{after}"


def reference() -> ModuleType:
    """Import tools/reference.py, which -P leaves off the import path."""
    spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    for name, page in reference().PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    PAGE.write_text(with_settings(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
