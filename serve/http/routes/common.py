"""What every family checks of the texts and dimensions it is given, and how it writes vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

import msgspec
import numpy as np

from embedship.codes import Vectors, truncate_dimensions
from embedship.serve import schemas
from embedship.serve.batching.model_client import EncodedTexts
from embedship.serve.errors import (
    ClientDeadlineExceeded,
    ClientDisconnected,
    EngineFailed,
    Forbidden,
    Internal,
    Invalid,
    InvalidJson,
    Overloaded,
    ServerDeadlineExceeded,
    TooLarge,
    Unauthorised,
)
from embedship.serve.http.messages import Headers
from embedship.serve.settings import Settings

# What can go wrong on every route that takes a body.
COMMON = (
    Unauthorised,
    Forbidden,
    InvalidJson,
    Invalid,
    TooLarge,
    Overloaded,
    ClientDisconnected,
    ClientDeadlineExceeded,
    ServerDeadlineExceeded,
    EngineFailed,
    Internal,
)

# Longer answers are written in a thread: 2,048 vectors take 50 ms.
_LONG_ROWS = 64

# Clients read headers of a few kilobytes: 2,048 cut texts would not fit.
_TOLD = 100

encode = msgspec.json.Encoder().encode


def validate_texts(value: str | list[str], field: str, limits: Settings) -> list[str]:
    """The texts of a request. Raises Invalid and TooLarge, with the field at fault."""
    texts = [value] if isinstance(value, str) else value
    if not texts:
        raise Invalid(f"{field}: the list is empty, give at least one text.", field)
    check_count(len(texts), field, limits)
    if (longest := max(map(len, texts))) > limits.max_characters:
        where = next(i for i, text in enumerate(texts) if len(text) == longest)
        raise TooLarge(
            f"{field}: text {where} has {longest} characters, this server takes {limits.max_characters}.", field
        )
    return texts


def check_count(texts: int, field: str, limits: Settings) -> None:
    if texts > limits.max_texts:
        raise TooLarge(f"{field}: {texts} texts, this server takes {limits.max_texts} a request.", field)


def check_dimensions(dimensions: int | None, allowed: tuple[int, ...]) -> None:
    if dimensions is not None and dimensions not in allowed:
        raise Invalid(
            f"dimensions: {dimensions} is none this model was trained for; it has: {', '.join(map(str, allowed))}.",
            "dimensions",
        )


def check_direction(direction: str | None) -> None:
    if direction in ("left", "Left"):
        raise Invalid(
            "truncation_direction: this server cuts on the right only, as the model was trained; leave it out.",
            "truncation_direction",
        )


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    return vectors if dimensions is None else truncate_dimensions(vectors, dimensions)


def base64_rows(vectors: Vectors) -> list[str]:
    """Little-endian float32, as OpenAI's clients read it."""
    return [base64.b64encode(row).decode() for row in vectors.astype(np.dtype("<f4"), order="C", copy=False)]


async def serialise(write: Callable[[], bytes], rows: int) -> bytes:
    """An answer of so many rows, written where it holds nobody up."""
    if rows <= _LONG_ROWS:
        return write()
    return await asyncio.get_running_loop().run_in_executor(None, write)


def usage(encoded: EncodedTexts) -> schemas.Usage:
    tokens = encoded.tokens
    return schemas.Usage(tokens, tokens)


def truncation_headers(encoded: EncodedTexts) -> Headers:
    """How many texts were cut, and which by how much: place=tokens, of the first _TOLD."""
    count = b"%d" % (number := encoded.truncated)
    if not number:
        return ((b"x-embedship-truncated", count),)
    places = [b"%d=%d" % (place, lost) for place, lost in enumerate(encoded.cut) if lost]
    return ((b"x-embedship-truncated", count), (b"x-embedship-cut", b",".join(places[:_TOLD])))
