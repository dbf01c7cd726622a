"""Draws recall against speed and against memory as SVG, without a library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _TOP, _KEY = 520, 360, 60, 40, 190
_COLOURS = ("#1f6feb", "#0a7", "#8250df", "#bf3989", "#0550ae", "#1b7c83", "#3fb950")
_GREYS = ("#d1242f", "#9a6700", "#57606a", "#bc4c00", "#8b949e", "#6e7781")
_LOWEST = 0.85  # lower recall is not useful and would compress the rest of the plot


def write(path: Path, points: Sequence[dict[str, Any]]) -> None:
    """Return an SVG with two plots and a legend. Points below a recall of 0.85 are omitted."""
    shown = [point for point in points if point["recall"] >= _LOWEST]
    names = list(dict.fromkeys(point["name"] for point in shown))
    ours = [name for name in names if any(p["ours"] for p in shown if p["name"] == name)]
    colours = {n: _COLOURS[i % len(_COLOURS)] for i, n in enumerate(ours)}
    colours |= {n: _GREYS[i % len(_GREYS)] for i, n in enumerate(n for n in names if n not in ours)}
    parts = _plot(shown, colours, 0, "queries per second, one thread", lambda p: p["queries_per_second"]["median"])
    parts += _plot(shown, colours, _WIDTH, "hot bytes a vector", lambda p: p["hot_bytes"])
    for place, (name, colour) in enumerate(colours.items()):
        y = _TOP + 18 * place
        parts.append(f'<circle cx="{2 * _WIDTH + 12}" cy="{y}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{2 * _WIDTH + 24}" y="{y + 4}">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH + _KEY}" height="{_HEIGHT}" '
    page = [head + 'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    path.write_text("\n".join([*page, *parts, "</svg>\n"]))


def _plot(
    points: Sequence[dict[str, Any]],
    colours: dict[str, str],
    left: int,
    title: str,
    value: Callable[[dict[str, Any]], float],
) -> list[str]:
    logs = [math.log10(value(point)) for point in points]
    low, high = math.floor(min(logs) * 2) / 2, math.ceil(max(logs) * 2) / 2
    right, bottom = left + _WIDTH - 20, _HEIGHT - 50

    def x(point: dict[str, Any]) -> float:
        share = (math.log10(value(point)) - low) / (high - low or 1)
        return left + _LEFT + share * (right - left - _LEFT)

    def y(recall: float) -> float:
        return bottom - (recall - _LOWEST) / (1 - _LOWEST) * (bottom - _TOP)

    parts = [f'<text x="{left + _LEFT}" y="20" font-weight="bold">recall@10 and {escape(title)}</text>']
    for recall in (0.85, 0.9, 0.95, 0.97, 0.99, 1.0):
        parts.append(
            f'<line x1="{left + _LEFT}" x2="{right}" y1="{y(recall):.1f}" y2="{y(recall):.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{left + _LEFT - 6}" y="{y(recall) + 4:.1f}" text-anchor="end">{recall:g}</text>')
    for power in range(math.ceil(low), math.floor(high) + 1):
        at = left + _LEFT + (power - low) / (high - low or 1) * (right - left - _LEFT)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{10**power:,}</text>')
    parts.append(f'<text x="{(left + _LEFT + right) / 2:.0f}" y="{bottom + 38}" text-anchor="middle">{title}</text>')
    for name, colour in colours.items():
        mine = sorted((p for p in points if p["name"] == name), key=lambda p: float(p["recall"]))
        line = " ".join(f"{x(p):.1f},{y(p['recall']):.1f}" for p in mine)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>')
        parts += [f'<circle cx="{x(p):.1f}" cy="{y(p["recall"]):.1f}" r="4" fill="{colour}"/>' for p in mine]
    return parts
