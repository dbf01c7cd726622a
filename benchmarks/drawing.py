"""Draws bar charts of a benchmark result as SVG, without a library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

_LEFT, _WIDTH, _ROW, _GAP = 330, 420, 22, 34


class Bar(NamedTuple):
    name: str
    value: float
    words: str
    ours: bool


def write(path: Path, groups: Sequence[tuple[str, Sequence[Bar]]]) -> None:
    """Return an SVG with groups of horizontal bars. Each group has a title and its own scale from zero."""
    parts: list[str] = []
    y = 10
    for title, bars in groups:
        parts.append(f'<text x="10" y="{y + 14}" font-weight="bold">{escape(title)}</text>')
        y += 26
        largest = max((bar.value for bar in bars), default=0) or 1
        for bar in bars:
            width = max(1.0, bar.value / largest * _WIDTH)
            colour = "#1f6feb" if bar.ours else "#8b949e"
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(bar.name)}</text>')
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_ROW - 6}" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT + width + 6:.1f}" y="{y + 13}">{escape(bar.words)}</text>')
            y += _ROW
        y += _GAP - _ROW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 190}" height="{y}" font-family="sans-serif" '
    )
    path.write_text(
        head
        + 'font-size="12">\n'
        + '<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
