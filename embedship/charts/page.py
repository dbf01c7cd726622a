"""One page in one file: no script, no request, every word from outside escaped."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import jinja2

_HERE = Path(__file__).parent
# Turn the reading direction of what follows them; NUL and its like are no HTML at all.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def template(path: Path) -> jinja2.Template:
    """Open a Jinja2 template that may import draw.j2 and include style.css."""
    return _environment(path.parent).get_template(path.name)


def _environment(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: Any) -> Any:
    """Strings without control characters, unpaired surrogates and marks that turn the reading direction."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join("\ufffd" if c in _BIDI or unicodedata.category(c) in ("Cc", "Cs") else c for c in value)
