"""Command line `embedship`: runs one command. Only that command's module is imported."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from embedship import terminal
from embedship.commands.guide import GUIDES
from embedship.commands.shared_options import with_shared_options
from embedship.distributions import conflicts
from embedship.errors import EmbedshipError, MissingExtra
from embedship.files.sealed import creation_time
from embedship.terminal import Verbosity


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
    "index sign": CommandSpec(
        "embedship.serve.commands.index_signature", "Sign an index with a private key, offline.", "cpu,sign", _INDEXES
    ),
    "index verify": CommandSpec(
        "embedship.serve.commands.index_signature", "Check an index's files and signature.", "cpu", _INDEXES
    ),
    "serve": CommandSpec("embedship.serve.commands.serve", "Serve embeddings and search over HTTP.", "cpu", _SERVING),
    "check": CommandSpec(
        "embedship.serve.commands.check", "Compare a running server's vectors with the golden texts.", "cpu", _SERVING
    ),
    "audit": CommandSpec(
        "embedship.serve.commands.audit", "Find out what is wrong with any server's vectors.", "cpu", _SERVING
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
                terminal.warn(message)
        # Rejects an invalid SOURCE_DATE_EPOCH now. numpy reads it as well and would end with a traceback.
        creation_time()
        _app(arguments)(args=arguments, prog_name="embedship")
    except EmbedshipError as error:
        if terminal.verbosity() is Verbosity.VERBOSE:
            traceback.print_exc()
        message, code = str(error), error.exit_code
        terminal.print_error(message)
    except ModuleNotFoundError as error:  # a library that the command imports only when it needs it
        missing = _missing_extra(error, COMMANDS.get(arguments[0]) if arguments else None)
        message, code = str(missing), missing.exit_code
        terminal.print_error(message)
    except OSError as error:
        message, code = f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1
        terminal.print_error(message)
    except SystemExit as stop:  # typer exits with 0, 2 (wrong command line) or 130 (Ctrl-C), and has printed the reason
        code = int(stop.code or 0)
        if code not in _EXIT_MESSAGES:  # the command has printed its result
            return code
        message = _EXIT_MESSAGES[code]
        if code == INTERRUPTED:
            message = f"interrupted. {_guide(arguments)}"
            terminal.print_error(message)
    else:
        return 0
    if code and "--json" in arguments:
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    return code


INTERRUPTED = 130  # exit code after Ctrl-C
_EXIT_MESSAGES = {2: "the command line is wrong; stderr says where", INTERRUPTED: "interrupted"}

# A shell that asks for completions passes the words of its line in one of these variables: bash in the first.
_COMPLETION_LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """Hide the type of flags: they take no value, but typer would show <bool>."""
    for each in parameters:
        if getattr(each, "is_flag", False) and each.metavar is None:
            each.metavar = ""
    return parameters


class _CommandGroup(TyperGroup):
    """Group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))


class _GuidedCommand(TyperCommand):
    """Command whose help ends with examples."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        guide = GUIDES.get(ctx.command_path.removeprefix("embedship "))
        if guide:
            text = Text("\n".join(guide.examples), overflow="fold")
            Console(highlight=False).print(Panel(text, title="Examples", title_align="left", border_style="dim"))


def _guide(arguments: list[str]) -> str:
    """Return how to go on after Ctrl-C."""
    names = [" ".join(arguments[:2]), *arguments[:1]]
    return next((GUIDES[name].interrupted for name in names if name in GUIDES), "Run the same command again.")


def _app(arguments: list[str]) -> typer.Typer:
    if "_EMBEDSHIP_COMPLETE" in os.environ:
        arguments = _line_to_complete()
    elif (two := " ".join(arguments[:2])) in COMMANDS:  # a command of two words: the second word is not a BUNDLE
        arguments[:2] = [two]
    app = typer.Typer(
        cls=_CommandGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback(invoke_without_command=True, help=_help(_version))(_version)
    for name, command in COMMANDS.items():
        function = _load(name, command) if name in arguments[:1] else _unloaded
        shown: dict[str, Any] = {"short_help": command.help, "rich_help_panel": command.panel}
        if isinstance(function, typer.Typer):  # a command with subcommands
            _add_group(app, name, function, shown)
        else:
            complete = function if function is _unloaded else with_shared_options(name, function)
            app.command(name, cls=_GuidedCommand, help=_help(function), **shown)(complete)
    return app


def _line_to_complete() -> list[str]:
    """Return the words of the line that a shell wants to complete. A command of two words becomes one of them."""
    variable = next((each for each in _COMPLETION_LINES if each in os.environ), None)
    if variable is None:
        return []
    words = os.environ[variable].split()[1:]
    if (two := " ".join(words[:2])) in COMMANDS and len(words) > 2:
        os.environ[variable] = os.environ[variable].replace(two, shlex.quote(two), 1)
        if "COMP_CWORD" in os.environ:
            os.environ["COMP_CWORD"] = str(int(os.environ["COMP_CWORD"]) - 1)
        words[:2] = [two]
    return words


def _add_group(app: typer.Typer, name: str, loaded: typer.Typer, shown: dict[str, Any]) -> None:
    """Add a command with subcommands, for example `monitor init`."""
    group = typer.Typer(cls=_CommandGroup, no_args_is_help=True)
    for each in loaded.registered_commands:
        assert each.callback
        word = each.name or each.callback.__name__
        complete = with_shared_options(f"{name} {word}", each.callback)
        group.command(word, cls=_GuidedCommand, help=_help(each.callback))(complete)
    if loaded.registered_callback and loaded.registered_callback.callback:
        group.callback(help=_help(loaded.registered_callback.callback))(loaded.registered_callback.callback)
    app.add_typer(group, name=name, **shown)


def _help(function: Callable[..., Any]) -> str:
    """Return the docstring with each paragraph on one line, because typer would keep the line breaks of the source."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(escape(" ".join(paragraph.split("\n"))) for paragraph in paragraphs)


def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Deploy an embedding model: export a checkpoint to a verified bundle, serve it, and monitor its quality.

    Exit codes of all commands: 0: success. 1: failure. 2: wrong usage or invalid input. 3: a measurement is beyond its
    limit. 4: a file was changed, is unsafe, or belongs to another model. 130: interrupted.

    `embedship COMMAND -h` shows the options and examples of a command.
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
