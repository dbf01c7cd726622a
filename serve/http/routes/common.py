"""Helpers shared by the routes: validation of texts and dimensions, and encoding of vectors."""

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

# Errors that every route with a body can return.
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

# Responses with more rows are encoded in a thread: 2,048 vectors take 50 ms.
_LONG_ROWS = 64

# Texts listed in X-Embedship-Cut: clients accept headers of a few kilobytes, so 2,048 entries would not fit.
_MAX_LISTED_TEXTS = 100

encode = msgspec.json.Encoder().encode


def validate_texts(value: str | list[str], field: str, limits: Settings) -> list[str]:
    """Return the texts of a request as a list. Raises Invalid, TooLarge, with the name of the field."""
    texts = [value] if isinstance(value, str) else value
    if not texts:
        raise Invalid(f"{field}: the list is empty: give at least one text.", field)
    check_count(len(texts), field, limits)
    if (longest := max(map(len, texts))) > limits.max_characters:
        where = next(i for i, text in enumerate(texts) if len(text) == longest)
        raise TooLarge(
            f"{field}: text {where} has {longest} characters; the maximum is {limits.max_characters}.", field
        )
    return texts


def check_count(texts: int, field: str, limits: Settings) -> None:
    """Raise TooLarge for more texts than one request may contain."""
    if texts > limits.max_texts:
        raise TooLarge(f"{field}: {texts} texts; the maximum is {limits.max_texts} per request.", field)


def check_dimensions(dimensions: int | None, allowed: tuple[int, ...], field: str = "dimensions") -> None:
    """Raise Invalid for a number of dimensions that the model was not trained for."""
    if dimensions is not None and dimensions not in allowed:
        raise Invalid(
            f"{field}: the model was not trained for {dimensions} dimensions; use one of: "
            f"{', '.join(map(str, allowed))}.",
            field,
        )


def check_direction(direction: str | None) -> None:
    """Raise Invalid for truncation on the left."""
    if direction in ("left", "Left"):
        raise Invalid(
            "truncation_direction: this server only truncates on the right, as in the training of the model; remove "
            "the field.",
            "truncation_direction",
        )


def shortened_without_normalising(field: str) -> Invalid:
    """Return the error for shortened vectors that are not to be normalised."""
    return Invalid(
        f"{field}: shortened vectors are always renormalised, because their dot products would not be cosines "
        f"otherwise; remove `{field}` or the number of dimensions.",
        field,
    )


def shorten(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Return (n, dimensions) vectors, truncated and renormalised; None keeps all dimensions."""
    return vectors if dimensions is None else truncate_dimensions(vectors, dimensions)


def base64_rows(vectors: Vectors) -> list[str]:
    """Return the rows as base64 of little-endian float32, as in OpenAI's API."""
    return [base64.b64encode(row).decode() for row in vectors.astype(np.dtype("<f4"), order="C", copy=False)]


async def serialise(write: Callable[[], bytes], rows: int) -> bytes:
    """Return the result of `write`. For a response of many rows it runs in a thread, to keep the event loop free."""
    if rows <= _LONG_ROWS:
        return write()
    return await asyncio.get_running_loop().run_in_executor(None, write)


def usage(encoded: EncodedTexts) -> schemas.Usage:
    """Return the number of computed tokens in OpenAI's format."""
    tokens = encoded.tokens
    return schemas.Usage(tokens, tokens)


def truncation_headers(encoded: EncodedTexts) -> Headers:
    """Return headers with the number of truncated texts and, for the first of them, index=removed tokens."""
    count = b"%d" % (number := encoded.truncated)
    if not number:
        return ((b"x-embedship-truncated", count),)
    places = [b"%d=%d" % (place, removed) for place, removed in enumerate(encoded.cut) if removed]
    return ((b"x-embedship-truncated", count), (b"x-embedship-cut", b",".join(places[:_MAX_LISTED_TEXTS])))
