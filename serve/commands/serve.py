"""Command `serve`: starts the HTTP server. Its options are the fields of `Settings`."""

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

    The server encodes the bundle's golden texts before it listens. If their vectors are wrong, it does not start.
    Every option can also be set by an environment variable: EMBEDSHIP_DRAIN_SECONDS sets --drain-seconds.
    """
    # Before numpy loads: the monitor's exact search must not start BLAS threads that compete with the engine streams.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedship.serve.main import run

    run(Settings(**options))


def _signature() -> inspect.Signature:
    """Return the signature that typer reads: BUNDLE is an argument, and every other setting is an option."""
    types = get_type_hints(Settings)
    return inspect.Signature([_parameter(field, types[field.name]) for field in dataclasses.fields(Settings)])


def _parameter(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    help, required = field.metadata["help"], field.default is dataclasses.MISSING
    if required:
        read: Any = typer.Argument(metavar=field.name.upper(), envvar=variable(field.name), help=help)
    else:
        # Without a parser typer would convert a Milvus address to a Path, which drops one of its slashes.
        is_location = Address in get_args(kind)
        kind = Any if is_location else kind
        parser = parse_location if is_location else None
        read = typer.Option(
            flag(field.name),
            envvar=variable(field.name),
            metavar="INDEX" if is_location else None,
            help=help,
            parser=parser,
            rich_help_panel=str(field.metadata["panel"]),
        )
    default = inspect.Parameter.empty if required else field.default
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(field.name, keyword, default=default, annotation=Annotated[kind, read])


serve.__signature__ = _signature()  # type: ignore[attr-defined]
serve.__annotations__ = {each.name: each.annotation for each in _signature().parameters.values()}
