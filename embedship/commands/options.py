"""Command-line options: a decorator that makes a command from an options dataclass, and options of many commands."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

OptionsT = TypeVar("OptionsT")

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")]
PrivateKeyOption = Annotated[
    Path, typer.Option("--key", help="Private key, PEM, of curve P-256, P-384 or P-521. See docs/pipelines.md.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def with_options(options: Any) -> Callable[[Callable[[OptionsT], None]], Callable[..., None]]:
    """Return a decorator that makes a typer command from a function of one argument, a dataclass of type `options`.

    Each field of the dataclass becomes a parameter of the command. The `Annotated` type of the field contains the
    `typer.Argument` or `typer.Option`; the default of the field is the default of the parameter.
    """
    types = get_type_hints(options, include_extras=True)
    parameters = [_parameter(field, types[field.name]) for field in dataclasses.fields(options)]

    def decorate(function: Callable[[OptionsT], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            function(options(**values))

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = types
        return command

    return decorate


def _parameter(field: dataclasses.Field[Any], annotation: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
