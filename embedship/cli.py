"""The one command. It knows its verbs by name, and loads a room only when one of its verbs is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from embedship.errors import EmbedshipError, MissingExtra


class Verb(NamedTuple):
    module: str
    help: str
    extra: str  # what must be installed for it


VERBS = {
    "export": Verb("embedship.export.cli", "Turn a checkpoint into a verified bundle.", "cpu,export"),
    "verify": Verb("embedship.verify", "Re-hash a bundle and re-run its golden texts.", "cpu"),
    "tune": Verb("embedship.tune_cli", "Find the best variant of a bundle on this machine.", "cpu"),
    "evaluate": Verb("embedship.export.evaluate_cli", "Measure a bundle's retrieval on your own questions.", "cpu"),
    "index": Verb("embedship.serve.index_cli", "Build a search index over a JSON Lines corpus.", "cpu"),
    "serve": Verb("embedship.serve.cli", "Serve embeddings and search over HTTP.", "cpu"),
    "demo": Verb("embedship.demo", "See all of it work on a real model and real text.", "demo"),
}


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0 ok, 1 failed, 2 usage, 3 gate, 4 unsafe, 130 interrupted."""
    try:
        _app(arguments)(args=arguments, prog_name="embedship")
    except EmbedshipError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:
        _complain(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
        return 1
    except SystemExit as stop:  # how typer ends: 0, or 2 for a wrong command line, or 130 for Ctrl-C
        return int(stop.code or 0)
    return 0


def _complain(sentence: str) -> None:
    Console(stderr=True, highlight=False).print("[bold red]error:[/]", end=" ")
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(sentence)


def _app(arguments: list[str]) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_version)
    for name, verb in VERBS.items():
        app.command(name, short_help=verb.help)(_load(name, verb) if name in arguments[:1] else _asleep)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Ship an embedding model: a checkpoint becomes a verified bundle, a search service, and live quality metrics."""
    if version:
        from embedship import __version__

        typer.echo(__version__)
        raise typer.Exit


def _asleep() -> None:
    """Stands for the verbs that were not asked for."""


def _load(name: str, verb: Verb) -> Callable[..., Any]:
    try:
        return getattr(importlib.import_module(verb.module), name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or name, verb.extra) from None
