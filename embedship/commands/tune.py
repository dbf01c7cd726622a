"""Command `tune`: finds the best variant of a bundle on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE
from rich.table import Table

from embedship import terminal, variant_choice
from embedship import tune as tuning
from embedship.bundle import Bundle, Objective, VariantChoice
from embedship.commands.options import BundleArgument, JsonOption
from embedship.files import jsonl


def tune(
    bundle: BundleArgument,
    objective: Annotated[
        Objective | None,
        typer.Option(help="Measurement that decides which variant is chosen (default: the objective of the export)."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help='JSON Lines, {"text": ...}: texts like those that you will embed (default: the golden texts of the '
            "bundle)."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            envvar=variant_choice.CACHE, help="Folder for the result (default: BUNDLE.choice.json next to the bundle)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every variant of a bundle on this machine, and store the best one. `serve` then uses it here.

    The bundle is not changed. Variants with dynamic int8 are never chosen. Neither are variants that lose more recall
    than the --max-recall-drop of the export.
    """
    opened = Bundle.open(bundle)
    lines = [row.text for row in jsonl.read(texts, jsonl.TextLine)] if texts else []
    console = terminal.messages()
    with console.status("") as status:
        choice = tuning.remeasure(
            opened,
            objective or opened.manifest.choice.objective,
            lines,
            cache=cache,
            progress=lambda name: status.update(f"measuring {name}"),
        )
    path = variant_choice.save(opened, choice, cache)
    if as_json:
        answer: dict[str, Any] = {"bundle": str(bundle), "fingerprint": opened.fingerprint, "file": str(path)}
        typer.echo(msgspec.json.encode({**answer, **msgspec.to_builtins(choice)}).decode())
        return
    out = terminal.output()
    out.print(table(choice))
    for line in notes(choice):
        out.print(line, soft_wrap=True)
    out.print(f"serve uses {choice.variant} on this machine, for {choice.objective}; stored in {path}", soft_wrap=True)


def table(choice: VariantChoice) -> Table:
    """Return the measurements of a choice as a table. A star marks the chosen variant."""
    shown = Table(box=SIMPLE, caption=f"measured on {choice.machine.cpu}, {choice.machine.cores:g} cores; * is chosen")
    for heading in ("", "variant", "tokens/s", "spread", "tokens/CPU s", "ms per short text"):
        shown.add_column(heading, justify="left" if heading in ("", "variant") else "right")
    for name, speed in choice.tokens_per_second.items():
        mark = "*" if name == choice.variant else ""
        cpu, latency = f"{choice.tokens_per_cpu_second[name]:,.0f}", f"{choice.latency_seconds[name] * 1000:.2f}"
        shown.add_row(mark, name, f"{speed:,.0f}", f"{choice.spread[name]:.0%}", cpu, latency)
    return shown


def notes(choice: VariantChoice) -> list[str]:
    """Return remarks that limit what the measurements show."""
    lines = []
    if choice.alike:
        lines.append(
            f"{', '.join(choice.alike)} cannot be told apart from {choice.variant}: the most exact one is chosen"
        )
    if choice.busy:
        lines.append("Other programs used this machine: the speeds are too low, and the choice is by CPU time.")
    return lines
