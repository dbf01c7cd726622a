"""Command-line options: a decorator that makes a command from an options dataclass, and parsers shared by commands."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from embedship.errors import UsageError
from embedship.monitor.drift.false_alarms import FalseAlarms, interval
from embedship.monitor.errors import InvalidSetting

OptionsT = TypeVar("OptionsT")


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


def parse_false_alarms(text: str) -> FalseAlarms:
    """Parse the value of --false-alarms, such as "1 per 30 days". Raises UsageError."""
    try:
        return FalseAlarms.parse(text)
    except InvalidSetting as error:
        raise UsageError(f"--false-alarms: {error}") from None


def parse_interval(text: str) -> float:
    """Parse the value of --every, such as "1h". Return the seconds between two drift tests. Raises UsageError."""
    try:
        return interval(text)
    except InvalidSetting as error:
        raise UsageError(f"--every: {error}") from None
