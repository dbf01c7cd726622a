"""Goals of `embedship index` as users write them, and what was measured as they read it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from embedship.errors import GateError, UsageError
from embedship.files import atomic_file
from embedship.serve.index.manifest import SAMPLED, IndexChoice, IndexGoals, frontier
from embedship.serve.indexing.goals_page.render import NUMBERS, WORDS, cells


class GoalsMissedReport(msgspec.Struct, frozen=True):
    """What `--json` prints where goals were missed: no index was written."""

    error: str
    exit_code: int
    choice: IndexChoice


def goals(recall: float | None, memory: str | None, latency: str | None) -> IndexGoals | None:
    if recall is None:
        if memory or latency:
            raise UsageError("--memory and --latency need --recall beside them: without it anything fits")
        return None
    return IndexGoals(
        recall=recall,
        memory_bytes=None if memory is None else int(_amount(memory, _BYTES, "--memory", "500MB")),
        latency_seconds=None if latency is None else _amount(latency, _SECONDS, "--latency", "5ms"),
    )


_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _amount(text: str, units: dict[str, float], option: str, example: str) -> float:
    """Raises UsageError for what is no positive number with one of these units."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if not found or found[2] not in units or not float(found[1]):
        raise UsageError(f"{option} {text!r}: write it as {example}, in {', '.join(units)}")
    return float(found[1]) * units[found[2]]


def show(choice: IndexChoice, plot: Path | None, as_json: bool, missed: str | None = None) -> None:
    """The table of what was measured, unless machines read; the page, if it was asked for; and what was missed."""
    if plot:
        from embedship.serve.indexing.goals_page.render import html

        atomic_file.write(plot, html(choice, missed).encode())
    if as_json and missed:
        typer.echo(msgspec.json.encode(GoalsMissedReport(missed, GateError.exit_code, choice)).decode())
    if not as_json:
        Console(highlight=False).print(_measured(choice))
    if missed:
        Console(stderr=True, highlight=False, soft_wrap=True).print("[bold red]error:[/]", end=" ")
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(missed)


def _measured(choice: IndexChoice) -> Table:
    """Those that no other beats in recall, speed and memory at once, and the chosen one."""
    asked = "vectors left out of it" if choice.source == SAMPLED else f"queries of {choice.source}"
    table = Table(title=f"measured over {choice.documents:,} vectors with {choice.queries:,} {asked}, one thread")
    for heading in ("", *WORDS, *NUMBERS):
        table.add_column(heading, justify="right" if heading in NUMBERS else "left")
    for at in frontier(choice):
        table.add_row(">" if at == choice.chosen else "", *cells(choice.measured[at]))
    return table
