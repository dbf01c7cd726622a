"""The one command. It knows its verbs by name, and loads a room only when one of its verbs is asked for."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from embedship.distributions import conflicts
from embedship.errors import EmbedshipError, MissingExtra
from embedship.files.sealed import creation_time


class Command(NamedTuple):
    module: str
    help: str
    extra: str  # what must be installed for it


VERBS = {
    "export": Command("embedship.export.commands.export", "Turn a checkpoint into a verified bundle.", "cpu,export"),
    "verify": Command("embedship.commands.verify", "Re-hash a bundle and re-run its golden texts.", "cpu"),
    "tune": Command("embedship.commands.tune", "Find the best variant of a bundle on this machine.", "cpu"),
    "evaluate": Command(
        "embedship.export.commands.evaluate", "Measure a bundle's retrieval on your own questions.", "cpu"
    ),
    "sign": Command("embedship.commands.sign", "Sign a bundle with a private key, offline.", "sign"),
    "push": Command("embedship.commands.transfer", "Send a bundle to an OCI registry.", "pull"),
    "pull": Command("embedship.commands.transfer", "Fetch a bundle: from a registry, S3, the web, a hub.", "pull"),
    "encode": Command("embedship.serve.commands.encode", "Encode a file of texts into shards of vectors.", "cpu"),
    "index": Command("embedship.serve.commands.index", "Build a search index over a JSON Lines corpus.", "cpu"),
    "index update": Command("embedship.serve.commands.index_update", "Put and delete documents of an index.", "cpu"),
    "index migrate": Command(
        "embedship.serve.commands.index_migrate", "Embed an index's documents with another bundle.", "cpu"
    ),
    "serve": Command("embedship.serve.commands.serve", "Serve embeddings and search over HTTP.", "cpu"),
    "check": Command("embedship.serve.commands.check", "Ask a running server for the golden texts' vectors.", "cpu"),
    "compare": Command(
        "embedship.serve.commands.compare", "May a new bundle, or server, take the old one's place?", "cpu"
    ),
    "reference": Command("embedship.serve.commands.reference", "Fit a drift reference on real queries.", "cpu"),
    "drift": Command("embedship.serve.commands.drift", "Compare a log of queries with a reference.", "cpu"),
    "monitor": Command(
        "embedship.serve.commands.monitor", "Alert rules, dashboards, runbooks; data for re-training.", "cpu"
    ),
    "backup": Command("embedship.serve.commands.backup", "Copy indexes and state, whole and as at one moment.", "cpu"),
    "restore": Command("embedship.serve.commands.backup", "Bring a folder of a backup back.", "cpu"),
    "demo": Command("embedship.commands.demo", "See all of it work on a real model and real text.", "demo"),
}


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0 ok, 1 failed, 2 usage, 3 gate, 4 unsafe, 130 interrupted.

    A sentence on stderr says what failed. With --json stdout gets one line however it ends: the verb's result, or
    {"error": sentence, "exit_code": code}.
    """
    try:
        if arguments[:1] and arguments[0] in VERBS and arguments[0] != "serve":  # serve says it in its log
            for sentence in conflicts():
                _print_error(sentence, "[bold yellow]warning:[/]")
        # refuses a SOURCE_DATE_EPOCH that is no number; numpy, which reads it too, would end in a trace
        creation_time()
        _app(arguments)(args=arguments, prog_name="embedship")
    except EmbedshipError as error:
        sentence, code = str(error), error.exit_code
        _print_error(sentence)
    except ModuleNotFoundError as error:  # a library that the verb loads only when it needs it
        missing = _missing_extra(error, VERBS.get(arguments[0]) if arguments else None)
        sentence, code = str(missing), missing.exit_code
        _print_error(sentence)
    except OSError as error:
        sentence, code = f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1
        _print_error(sentence)
    except SystemExit as stop:  # how typer ends: 0, or 2 for a wrong command line, or 130 for Ctrl-C; it has said why
        code = int(stop.code or 0)
        if code not in _STOPPED:  # a verb that has printed its result, which the code sums up
            return code
        sentence = _STOPPED[code]
    else:
        return 0
    if code and "--json" in arguments:
        typer.echo(json.dumps({"error": sentence, "exit_code": code}))
    return code


_STOPPED = {2: "the command line is wrong; stderr says where", 130: "interrupted"}


def _print_error(sentence: str, label: str = "[bold red]error:[/]") -> None:
    Console(stderr=True, highlight=False).print(label, end=" ")
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(sentence)


def _app(arguments: list[str]) -> typer.Typer:
    if (two := " ".join(arguments[:2])) in VERBS:  # a verb of two words; the second is no BUNDLE of the first
        arguments[:2] = [two]
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_version)
    for name, verb in VERBS.items():
        work = _load(name, verb) if name in arguments[:1] else _unloaded
        if isinstance(work, typer.Typer):  # a verb with verbs of its own
            app.add_typer(work, name=name, short_help=verb.help)
        else:
            app.command(name, short_help=verb.help)(work)
    return app


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Ship an embedding model: a checkpoint becomes a verified bundle, a search service, and live quality metrics.

    Exit codes of every verb: 0 ok, 1 failed, 2 wrong usage or input, 3 measured and found wanting, 4 tampered with,
    foreign or unsafe, 130 interrupted.
    """
    if version:
        from embedship.version import __version__

        typer.echo(__version__)
        raise typer.Exit


def _unloaded() -> None:
    """Stands for the verbs that were not asked for."""


def _load(name: str, verb: Command) -> Callable[..., Any] | typer.Typer:
    return getattr(importlib.import_module(verb.module), name.split()[-1])  # type: ignore[no-any-return]


def _missing_extra(error: ModuleNotFoundError, verb: Command | None) -> MissingExtra:
    """The sentence for a library that is not installed. Raises the error where it is a fault of our own."""
    library = (error.name or "").partition(".")[0]
    if verb is None or library in {"", "embedship"}:
        raise error
    return MissingExtra(library, verb.extra)
