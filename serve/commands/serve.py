"""`embedship serve`: its options are the fields of Settings."""

from __future__ import annotations

import dataclasses
import inspect
import os
from typing import Annotated, Any, get_args, get_type_hints

import typer

from embedship.serve.search.address import Address, parse_location
from embedship.serve.settings import Settings, flag, variable


def serve(**options: Any) -> None:
    """Serve embeddings (OpenAI and text-embeddings-inference) and search over HTTP.

    The bundle's golden texts are encoded first: a server that would answer with wrong vectors does not start.
    Every option is also an environment variable: --drain-seconds is EMBEDSHIP_DRAIN_SECONDS.
    """
    # Before numpy loads: the exact search of the monitor must not wake a pool of BLAS threads beside the streams.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedship.serve.main import run

    run(Settings(**options))


def _signature() -> inspect.Signature:
    """What typer reads: BUNDLE as an argument, every other setting as an option."""
    types = get_type_hints(Settings)
    return inspect.Signature([_parameter(field, types[field.name]) for field in dataclasses.fields(Settings)])


def _parameter(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    help, required = field.metadata["help"], field.default is dataclasses.MISSING
    if required:
        read: Any = typer.Argument(metavar=field.name.upper(), envvar=variable(field.name), help=help)
    else:
        # Else typer would make a path of an address, and drop a slash.
        where = Address in get_args(kind)
        kind = Any if where else kind
        read = typer.Option(
            flag(field.name), envvar=variable(field.name), help=help, parser=parse_location if where else None
        )
    default = inspect.Parameter.empty if required else field.default
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(field.name, keyword, default=default, annotation=Annotated[kind, read])


serve.__signature__ = _signature()  # type: ignore[attr-defined]
serve.__annotations__ = {each.name: each.annotation for each in _signature().parameters.values()}
