"""Writes the tables of docs/ that come from the code: at present the settings in docs/serving.md.

    python -P tools/docs.py

`make docs` runs it. A setting is described once, in serve/settings.py; tests/serve/test_settings.py fails if the page
differs from it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from embedship.serve.settings import Settings, flag

PAGE = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
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


if __name__ == "__main__":
    PAGE.write_text(with_settings(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
