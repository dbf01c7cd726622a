"""The verb `tune`: which variant is best on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from embedship import tune as tuning
from embedship import variant_choice
from embedship.bundle import Bundle, Objective, VariantChoice
from embedship.files import jsonl


def tune(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder.")],
    objective: Annotated[
        Objective | None, typer.Option(help="What the variant should be best at (default: what the export asked for).")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help='JSON Lines, {"text": ...}: texts like those you embed (default: the bundle\'s golden texts).'
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            envvar=variant_choice.CACHE, help="Folder for the result (default: BUNDLE.choice.json beside the bundle)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure every variant of a bundle on this machine and note which one `serve` shall take here.

    The bundle itself is not changed. A variant over the bundle's --max-recall-drop stays out, and so does dynamic int8.
    """
    opened = Bundle.open(bundle)
    given = [row.text for row in jsonl.read(texts, jsonl.TextLine)] if texts else []
    console = Console(stderr=True, highlight=False)
    with console.status("") as status:
        made = tuning.remeasure(
            opened,
            objective or opened.manifest.choice.objective,
            given,
            cache=cache,
            progress=lambda name: status.update(f"measuring {name}"),
        )
    path = variant_choice.save(opened, made, cache)
    if as_json:
        answer: dict[str, Any] = {"bundle": str(bundle), "fingerprint": opened.fingerprint, "file": str(path)}
        typer.echo(msgspec.json.encode({**answer, **msgspec.to_builtins(made)}).decode())
        return
    out = Console(highlight=False)
    out.print(table(made))
    for line in notes(made):
        out.print(line, soft_wrap=True)
    out.print(f"{made.variant} is what serve takes here, for {made.objective}; noted in {path}", soft_wrap=True)


def table(made: VariantChoice) -> Table:
    shown = Table(box=SIMPLE, caption=f"measured on {made.machine.cpu}, {made.machine.cores:g} cores")
    for heading in ("", "variant", "tokens/s", "spread", "tokens/CPU s", "ms for one short text"):
        shown.add_column(heading, justify="left" if heading in ("", "variant") else "right")
    for name, speed in made.tokens_per_second.items():
        mark = "*" if name == made.variant else ""
        cpu, latency = f"{made.tokens_per_cpu_second[name]:,.0f}", f"{made.latency_seconds[name] * 1000:.2f}"
        shown.add_row(mark, name, f"{speed:,.0f}", f"{made.spread[name]:.0%}", cpu, latency)
    return shown


def notes(made: VariantChoice) -> list[str]:
    """What keeps the figures from being a verdict."""
    lines = []
    if made.alike:
        lines.append(f"{', '.join(made.alike)} cannot be told apart from {made.variant}: the more exact one is taken")
    if made.busy:
        lines.append("Other programs used this machine meanwhile: the speeds are too low, and CPU time decided.")
    return lines
