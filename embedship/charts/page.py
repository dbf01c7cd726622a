"""HTML page in one file: no script, no request, and all text from outside is escaped."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import jinja2

_CHARTS_FOLDER = Path(__file__).parent
# Marks that change the reading direction of the text after them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def template(path: Path) -> jinja2.Template:
    """Open a Jinja2 template that may import draw.j2 and include style.css."""
    return _environment(path.parent).get_template(path.name)


def _environment(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _CHARTS_FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: Any) -> Any:
    """Replace control characters, unpaired surrogates and direction marks in strings. NUL is not valid in HTML."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join("\ufffd" if c in _BIDI or unicodedata.category(c) in ("Cc", "Cs") else c for c in value)
