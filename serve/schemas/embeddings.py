"""Types of the routes that encode texts: OpenAI's, those of text-embeddings-inference, and /v1/encode."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from embedship.bundle import VectorCode

Dimensions = Annotated[int, Meta(ge=1, description="Keep this many leading components and renormalise.")]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of requests that reject unknown fields."""


class EmbeddingsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of OpenAI, and after `user` those of Voyage, Jina, NVIDIA and vLLM."""

    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    user: str | None = None
    output_dimension: Dimensions | None = None
    output_dtype: str | None = None
    embedding_type: str | list[str] | None = None
    input_type: str | None = None
    task: str | None = None
    prompt_name: str | None = None
    truncation: bool | None = None
    truncate: bool | Literal["NONE", "START", "END"] | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    truncate_prompt_tokens: int | None = None
    normalize: bool | None = None
    normalized: bool | None = None
    late_chunking: bool | None = None
    return_multivector: bool | None = None
    add_special_tokens: bool | None = None
    instruction: str | None = None
    prompt: str | None = None


class EmbeddingsRequest(EmbeddingsOptions, frozen=True, kw_only=True):
    """OpenAI's POST /v1/embeddings. `model` may be any name; the response names the model of this server."""

    input: str | list[str]


class TokensRequest(EmbeddingsOptions, frozen=True, kw_only=True):
    """OpenAI's POST /v1/embeddings, on servers that accept token ids.

    `input` is a text, a list of texts, a list of token ids, or a list of such lists.
    """

    input: str | list[str | int | list[int]]


class Embedding(msgspec.Struct, frozen=True):
    """A vector, or base64 of its little-endian float32 bytes."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(msgspec.Struct, frozen=True):
    """Number of computed tokens, including special tokens. Padding and truncated tokens are not counted."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class EncodeRequest(Strict, frozen=True):
    """POST /v1/encode. `dtype` is the data type of the rows; int8 and ubinary use the calibration in the bundle."""

    texts: str | list[str]
    dtype: VectorCode | None = VectorCode.FLOAT32
    prompt_name: str | None = None
    dimensions: Dimensions | None = None
    truncate: bool | None = True


class EncodeReply(msgspec.Struct, frozen=True):
    """Vectors of the texts. `tokens` and `cut` have one entry per text: its computed and its truncated tokens."""

    vectors: list[list[float]]
    dtype: VectorCode
    shape: list[int]
    fingerprint: str
    tokens: list[int]
    cut: list[int]


class EmbedRequest(Strict, frozen=True):
    """POST /embed of text-embeddings-inference."""

    inputs: str | list[str]
    normalize: bool | None = None
    truncate: bool | None = None  # null and true truncate texts that are too long, false rejects them
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None
    dimensions: Dimensions | None = None
    encoding_format: Literal["float"] | None = None
    parameters: dict[str, Any] | None = None  # huggingface_hub may send an empty one


class SimilarityInputs(Strict, frozen=True):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Strict, frozen=True):
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None


class SimilarityRequest(Strict, frozen=True):
    """POST /similarity of text-embeddings-inference: the cosine between one sentence and each of the others."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TokenizeRequest(Strict, frozen=True):
    """POST /tokenize of text-embeddings-inference: the tokens of each text."""

    inputs: str | list[str]
    add_special_tokens: bool | None = True
    prompt_name: str | None = None


class Token(msgspec.Struct, frozen=True):
    """A token of a text. `start` and `stop` are character positions, prompt included; null for a special token."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(Strict, frozen=True):
    """POST /decode of text-embeddings-inference: one list of token ids, or several."""

    ids: list[int | list[int]]
    skip_special_tokens: bool | None = True
