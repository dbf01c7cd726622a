"""Command line `embedship`: runs one command. Only that command's module is imported."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from embedship.distributions import conflicts
from embedship.errors import EmbedshipError, MissingExtra
from embedship.files.sealed import creation_time


class CommandSpec(NamedTuple):
    """A command: where its function is, and how `embedship --help` shows it."""

    module: str
    help: str
    extra: str  # the extra to install for it
    panel: str  # its group in `embedship --help`


_BUNDLES = "Bundles"
_INDEXES = "Vectors and indexes"
_SERVING = "Serving"
_QUALITY = "Quality and monitoring"
_OPERATIONS = "Operations"

COMMANDS = {
    "demo": CommandSpec(
        "embedship.commands.demo", "Export, index, serve and monitor a small real model.", "demo", "Start here"
    ),
    "export": CommandSpec(
        "embedship.export.commands.export", "Turn a checkpoint into a verified bundle.", "cpu,export", _BUNDLES
    ),
    "verify": CommandSpec("embedship.commands.verify", "Check a bundle's files and vectors.", "cpu", _BUNDLES),
    "tune": CommandSpec("embedship.commands.tune", "Find the best variant on this machine.", "cpu", _BUNDLES),
    "evaluate": CommandSpec(
        "embedship.export.commands.evaluate", "Measure a bundle's retrieval on your own queries.", "cpu", _BUNDLES
    ),
    "sign": CommandSpec("embedship.commands.sign", "Sign a bundle with a private key, offline.", "sign", _BUNDLES),
    "push": CommandSpec("embedship.commands.transfer", "Send a bundle to an OCI registry.", "pull", _BUNDLES),
    "pull": CommandSpec(
        "embedship.commands.transfer", "Fetch a bundle from a registry, S3, the web or a model hub.", "pull", _BUNDLES
    ),
    "encode": CommandSpec(
        "embedship.serve.commands.encode", "Encode a file of texts into shards of vectors.", "cpu", _INDEXES
    ),
    "index": CommandSpec(
        "embedship.serve.commands.index", "Build a search index over a JSON Lines corpus.", "cpu", _INDEXES
    ),
    "index update": CommandSpec(
        "embedship.serve.commands.index_update", "Add, replace and delete documents of an index.", "cpu", _INDEXES
    ),
    "index migrate": CommandSpec(
        "embedship.serve.commands.index_migrate", "Embed an index's documents with another bundle.", "cpu", _INDEXES
    ),
    "serve": CommandSpec("embedship.serve.commands.serve", "Serve embeddings and search over HTTP.", "cpu", _SERVING),
    "check": CommandSpec(
        "embedship.serve.commands.check", "Compare a running server's vectors with the golden texts.", "cpu", _SERVING
    ),
    "compare": CommandSpec(
        "embedship.serve.commands.compare",
        "Decide whether a new bundle or server may replace the old one.",
        "cpu",
        _QUALITY,
    ),
    "reference": CommandSpec(
        "embedship.serve.commands.reference", "Fit a drift reference on queries of a normal period.", "cpu", _QUALITY
    ),
    "drift": CommandSpec("embedship.serve.commands.drift", "Test a query log for drift.", "cpu", _QUALITY),
    "monitor": CommandSpec(
        "embedship.serve.commands.monitor",
        "Write alert rules, dashboards and runbooks; export data for retraining.",
        "cpu",
        _QUALITY,
    ),
    "backup": CommandSpec(
        "embedship.serve.commands.backup", "Copy indexes and monitor state consistently.", "cpu", _OPERATIONS
    ),
    "restore": CommandSpec("embedship.serve.commands.backup", "Restore a folder from a backup.", "cpu", _OPERATIONS),
}


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0 ok, 1 failed, 2 usage, 3 gate, 4 unsafe, 130 interrupted.

    A failure is explained on stderr. With --json, stdout always gets one line: the command's result, or
    {"error": message, "exit_code": code}.
    """
    try:
        if arguments[:1] and arguments[0] in COMMANDS and arguments[0] != "serve":  # serve logs these warnings itself
            for message in conflicts():
                _print_error(message, "[bold yellow]warning:[/]")
        # Rejects an invalid SOURCE_DATE_EPOCH now. numpy reads it as well and would end with a traceback.
        creation_time()
        _app(arguments)(args=arguments, prog_name="embedship")
    except EmbedshipError as error:
        message, code = str(error), error.exit_code
        _print_error(message)
    except ModuleNotFoundError as error:  # a library that the command imports only when it needs it
        missing = _missing_extra(error, COMMANDS.get(arguments[0]) if arguments else None)
        message, code = str(missing), missing.exit_code
        _print_error(message)
    except OSError as error:
        message, code = f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1
        _print_error(message)
    except SystemExit as stop:  # typer exits with 0, 2 (wrong command line) or 130 (Ctrl-C), and has printed the reason
        code = int(stop.code or 0)
        if code not in _EXIT_MESSAGES:  # the command has printed its result
            return code
        message = _EXIT_MESSAGES[code]
    else:
        return 0
    if code and "--json" in arguments:
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    return code


_EXIT_MESSAGES = {2: "the command line is wrong; stderr says where", 130: "interrupted"}


def _print_error(message: str, label: str = "[bold red]error:[/]") -> None:
    Console(stderr=True, highlight=False).print(label, end=" ")
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)


def _app(arguments: list[str]) -> typer.Typer:
    if (two := " ".join(arguments[:2])) in COMMANDS:  # a command of two words: the second word is not a BUNDLE
        arguments[:2] = [two]
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True, help=_help(_version))(_version)
    for name, command in COMMANDS.items():
        function = _load(name, command) if name in arguments[:1] else _unloaded
        if isinstance(function, typer.Typer):  # a command with subcommands
            app.add_typer(function, name=name, short_help=command.help, rich_help_panel=command.panel)
        else:
            app.command(name, help=_help(function), short_help=command.help, rich_help_panel=command.panel)(function)
    return app


def _help(function: Callable[..., Any]) -> str:
    """Return the docstring with each paragraph on one line, because typer would keep the line breaks of the source."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Deploy an embedding model: export a checkpoint to a verified bundle, serve it, and monitor its quality.

    Exit codes of all commands: 0: success. 1: failure. 2: wrong usage or invalid input. 3: a measurement is beyond its
    limit. 4: a file was changed, is unsafe, or belongs to another model. 130: interrupted.
    """
    if version:
        from embedship.version import __version__

        typer.echo(__version__)
        raise typer.Exit


def _unloaded() -> None:
    """Placeholder for the commands that are not run."""


def _load(name: str, command: CommandSpec) -> Callable[..., Any] | typer.Typer:
    return getattr(importlib.import_module(command.module), name.split()[-1])  # type: ignore[no-any-return]


def _missing_extra(error: ModuleNotFoundError, command: CommandSpec | None) -> MissingExtra:
    """Return the error for a library that is not installed. Raises `error` again if our own module is missing."""
    library = (error.name or "").partition(".")[0]
    if command is None or library in {"", "embedship"}:
        raise error
    return MissingExtra(library, command.extra)
