"""Options that all commands share: --quiet and --verbose, and the letters of short options.

They are added here, so that a short option has the same meaning in every command.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape
from typer.models import ArgumentInfo, OptionInfo

from embedship import terminal
from embedship.commands.guide import next_steps
from embedship.errors import UsageError
from embedship.terminal import Verbosity

# Name of a parameter -> short form of its option.
SHORT = {"out": "-o", "port": "-p", "force": "-f", "index": "-i"}

_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors, warnings and the result.")]
_VERBOSE = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also print the log of libraries and the traceback of an error."),
]


def with_shared_options(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """Return the command with --quiet, --verbose and short options. At its end, it prints what to run next."""
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_shown(each, hints.get(each.name)))
        for each in signature.parameters.values()
    ]
    for flag, annotation in (("quiet", _QUIET), ("verbose", _VERBOSE)):
        parameters.append(inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation))

    @functools.wraps(function)
    def command(*, quiet: bool, verbose: bool, **values: Any) -> None:
        _set_verbosity(quiet, verbose)
        function(**values)
        if not values.get("as_json"):
            _print_next_steps(name, values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _shown(parameter: inspect.Parameter, hint: Any) -> Any:
    """Return the annotation of a parameter with its short option, and with Rich markup escaped in its help text."""
    annotation = hint if hint is not None else parameter.annotation
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, info = get_args(annotation)
    changed = _changed(parameter.name, info)
    return Annotated[kind, changed]


def _changed(name: str, info: Any) -> Any:
    if not isinstance(info, OptionInfo | ArgumentInfo):
        return info
    info = copy.copy(info)
    info.help = escape(info.help or "")
    if isinstance(info, OptionInfo) and name in SHORT:
        long = () if isinstance(info.default, str) else (f"--{name}",)  # typer keeps the first name in `default`
        info.param_decls = (*long, *(info.param_decls or ()), SHORT[name])
    return info


def _set_verbosity(quiet: bool, verbose: bool) -> None:
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other: give only one of them")
    terminal.set_verbosity(Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def _print_next_steps(name: str, values: Mapping[str, Any]) -> None:
    steps = next_steps(name, values)
    for label, step in zip(("next: ", *["      "] * len(steps)), steps, strict=False):
        terminal.messages().print(f"{label}{step}", soft_wrap=True)
