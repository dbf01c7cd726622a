"""Options of /v1/embeddings and /embeddings: OpenAI's options, and those that other services add to the same route.

These routes ignore unknown fields, because each release of OpenAI's clients sends more of them. A known option that
changes the vectors is applied or rejected, because a client cannot see that vectors are not those it requested.
"""

from __future__ import annotations

from typing import NamedTuple

from embedship.bundle import ModelSpec
from embedship.serve.errors import Invalid
from embedship.serve.http.routes import common
from embedship.serve.schemas import EmbeddingsOptions

# Purpose of a text, as other services call it -> names of prompts. The first of these prompts that the model has is
# used. If it has none of them, its default prompt is used.
_DOCUMENT = ("document", "passage", "corpus")
PROMPTS = {
    "search_query": ("query",),  # Cohere
    "search_document": _DOCUMENT,
    "classification": ("classification",),
    "clustering": ("clustering",),
    "query": ("query",),  # Voyage, NVIDIA
    "document": _DOCUMENT,
    "passage": _DOCUMENT,
    "retrieval.query": ("query",),  # Jina
    "retrieval.passage": _DOCUMENT,
    "text-matching": ("text-matching", "sts"),
    "separation": ("clustering",),
}

# Options that this server does not support, with the values that are accepted because they change nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "output_dtype": ("float",),
    "late_chunking": (False,),
    "return_multivector": (False,),
    "add_special_tokens": (True,),
    "truncate_prompt_tokens": (-1,),
    "instruction": ("",),
    "prompt": ("",),
}


class VectorOptions(NamedTuple):
    """Options of a request, independent of the service whose option names the request uses."""

    prompt_name: str | None
    dimensions: int | None
    truncate: bool
    base64: bool
    normalise: bool  # whether to normalise vectors that the model itself does not normalise


def prompt_for(purpose: str, model: ModelSpec) -> str | None:
    """Return the name of the model's prompt for a purpose in PROMPTS; None selects its default prompt."""
    return next((name for name in PROMPTS[purpose] if name in model.prompts), None)


def resolve(request: EmbeddingsOptions, model: ModelSpec) -> VectorOptions:
    """Return the options of a request. Raises Invalid, with the name of the wrong option."""
    for field, neutral in _NEUTRAL.items():
        if (value := getattr(request, field)) is not None and value not in neutral:
            raise Invalid(f"{field}: {value!r} is not supported on this route; remove the option.", field)
    dimensions = request.dimensions or None
    if request.output_dimension is not None:
        if dimensions not in (None, request.output_dimension):
            raise Invalid("output_dimension: it differs from `dimensions`; give one of them.", "output_dimension")
        dimensions = request.output_dimension
        common.check_dimensions(dimensions, model.dimensions, "output_dimension")
    common.check_dimensions(dimensions, model.dimensions)
    return VectorOptions(
        _prompt_name(request, model),
        dimensions,
        _truncate(request),
        _base64(request),
        _normalise(request, model, dimensions),
    )


def _prompt_name(request: EmbeddingsOptions, model: ModelSpec) -> str | None:
    given = [name for name in ("prompt_name", "input_type", "task") if getattr(request, name) is not None]
    if len(given) > 1:
        raise Invalid(f"{given[1]}: it selects a prompt, as `{given[0]}` does; give one of them.", given[1])
    if not given or given == ["prompt_name"]:
        return request.prompt_name
    value = str(getattr(request, given[0]))
    if value in PROMPTS:
        return prompt_for(value, model)
    if value in model.prompts:
        return value
    known = ", ".join(sorted({*PROMPTS, *model.prompts}))
    raise Invalid(f"{given[0]}: {value!r} is not known; use one of: {known}.", given[0])


def _truncate(request: EmbeddingsOptions) -> bool:
    """Return whether texts that are too long are truncated. If not, they are rejected."""
    common.check_direction(request.truncation_direction)
    if request.truncate == "START":
        raise Invalid(
            "truncate: this server only truncates at the end, as in the training of the model; use END.", "truncate"
        )
    return request.truncation is not False and request.truncate not in (False, "NONE")


def _base64(request: EmbeddingsOptions) -> bool:
    kinds = [request.embedding_type] if isinstance(request.embedding_type, str) else request.embedding_type
    if kinds is None:
        return request.encoding_format == "base64"
    if len(kinds) != 1 or kinds[0] not in ("float", "base64"):
        raise Invalid(
            f"embedding_type: {request.embedding_type!r} is not supported on this route; use float or base64, or POST "
            "/v1/encode for other data types.",
            "embedding_type",
        )
    if request.encoding_format not in (None, kinds[0]):
        raise Invalid("embedding_type: it differs from `encoding_format`; give one of them.", "embedding_type")
    return kinds[0] == "base64"


def _normalise(request: EmbeddingsOptions, model: ModelSpec, dimensions: int | None) -> bool:
    for field in ("normalize", "normalized"):
        if getattr(request, field) is False and dimensions not in (None, model.dimension):
            raise common.shortened_without_normalising(field)
    if {request.normalize, request.normalized} >= {True, False}:
        raise Invalid("normalized: it differs from `normalize`; give one of them.", "normalized")
    return True in (request.normalize, request.normalized) and not model.normalised
