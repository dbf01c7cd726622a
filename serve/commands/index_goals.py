"""Goals of `embedship index`: parses --recall, --memory and --latency, and prints the measured candidates."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import typer
from rich.table import Table

from embedship import terminal
from embedship.errors import GateError, UsageError
from embedship.files import atomic_file
from embedship.serve.index.manifest import SAMPLED, IndexChoice, IndexGoals, frontier
from embedship.serve.indexing.goals_page.render import NUMBERS, WORDS, cells


class GoalsMissedReport(msgspec.Struct, frozen=True):
    """Output of `--json` if no index meets the goals. No index was written."""

    error: str
    exit_code: int
    choice: IndexChoice


def goals(recall: float | None, memory: str | None, latency: str | None) -> IndexGoals | None:
    """Return the goals that the options describe, or None without --recall. Raises UsageError."""
    if recall is None:
        if memory or latency:
            raise UsageError("--memory and --latency need --recall: without a recall goal any index would meet them")
        return None
    return IndexGoals(
        recall=recall,
        memory_bytes=None if memory is None else int(_amount(memory, _BYTES, "--memory", "500MB")),
        latency_seconds=None if latency is None else _amount(latency, _SECONDS, "--latency", "5ms"),
    )


_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _amount(text: str, units: dict[str, float], option: str, example: str) -> float:
    """Return the number of bytes or seconds. Raises UsageError if `text` is not a positive number with a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if not match or match[2] not in units or not float(match[1]):
        raise UsageError(f"{option} {text!r}: write it as {example}; the units are {', '.join(units)}")
    return float(match[1]) * units[match[2]]


def show(choice: IndexChoice, page: Path | None, as_json: bool, missed: str | None = None) -> None:
    """Print the table of measurements (not with --json), write `page`, and print the missed goals."""
    if page:
        from embedship.serve.indexing.goals_page.render import html

        atomic_file.write(page, html(choice, missed).encode())
    if as_json and missed:
        typer.echo(msgspec.json.encode(GoalsMissedReport(missed, GateError.exit_code, choice)).decode())
    if not as_json:
        terminal.output().print(_table(choice))
    if missed:
        terminal.print_error(missed)


def _table(choice: IndexChoice) -> Table:
    """Return a table of the Pareto front (recall, speed, memory) and the chosen index."""
    queries = "held-out vectors" if choice.source == SAMPLED else f"queries from {choice.source}"
    table = Table(title=f"measured on {choice.documents:,} vectors with {choice.queries:,} {queries}, one thread")
    for heading in ("", *WORDS, *NUMBERS):
        table.add_column(heading, justify="right" if heading in NUMBERS else "left")
    for row in frontier(choice):
        table.add_row(">" if row == choice.chosen else "", *cells(choice.measured[row]))
    return table
