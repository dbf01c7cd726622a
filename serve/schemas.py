"""What the routes take and give. The OpenAPI document is generated from these, so it cannot say anything else.

/v1/embeddings tolerates fields it does not know, because OpenAI's clients send more of them with every release. /embed
and /search refuse them: there a misspelt `trunkate` would be silently ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from embedship.serve.filters import Filter
from embedship.serve.fusion import Mode

Dimensions = Annotated[int, Meta(ge=1, description="Keep the first so many components and renormalise.")]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unknown fields are errors."""


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """OpenAI's POST /v1/embeddings. `model` may be any name; the reply says which model answered."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    user: str | None = None


class Embedding(msgspec.Struct, frozen=True):
    """A vector, or base64 of its little-endian float32 bytes."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(msgspec.Struct, frozen=True):
    """Tokens that were computed: special tokens included, padding and what was cut off not."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class EmbedRequest(Strict, frozen=True):
    """POST /embed of text-embeddings-inference."""

    inputs: str | list[str]
    normalize: bool | None = None
    truncate: bool | None = None  # null and true cut what is too long, false refuses it
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None
    dimensions: Dimensions | None = None
    encoding_format: Literal["float"] | None = None
    parameters: dict[str, Any] | None = None  # huggingface_hub may send an empty one


class SearchRequest(Strict, frozen=True):
    """`filter` holds conditions on metadata: {"kind": "drug", "year": {"gte": 2000}, "tag": {"in": ["a", "b"]}}."""

    query: str | list[str]
    k: Annotated[int, Meta(ge=1)] = 10
    mode: Mode = Mode.DENSE
    filter: Filter | None = None


class Place(msgspec.Struct, frozen=True):
    """Where one of the two searches had a hit: its rank, from 1, and its score there."""

    rank: int
    score: float


class SearchHit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document and its score; `title` and `metadata` where the document has them.

    The score is the cosine to the query in mode dense, BM25 in mode keyword, and in mode hybrid the sum of
    1 / (60 + rank) over `dense` and `keyword`, each given where that search had the document among its first.
    """

    id: str
    score: float
    text: str
    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    dense: Place | UnsetType = UNSET
    keyword: Place | UnsetType = UNSET


class SearchResult(msgspec.Struct, frozen=True):
    """The hits of one query, best first."""

    hits: list[SearchHit]


class SearchReply(msgspec.Struct, frozen=True):
    """One result a query, in the order of the queries."""

    results: list[SearchResult]
    usage: Usage


DocumentId = Annotated[str, Meta(min_length=1, max_length=1024)]


class FeedbackRequest(Strict, frozen=True):
    """What was right: for an answer of /search by its X-Request-Id, or for a query.

    With `query`, `hits` are the ids that were answered, best first; without `hits` the query is searched again. Where a
    request held several queries, `result` is the place of the one that is judged, from 0.
    """

    relevant: Annotated[list[DocumentId], Meta(min_length=1, max_length=100)]
    request_id: Annotated[str, Meta(max_length=64)] | None = None
    result: Annotated[int, Meta(ge=0)] = 0
    query: Annotated[str, Meta(min_length=1)] | None = None
    hits: Annotated[list[DocumentId], Meta(max_length=1000)] | None = None


class FeedbackReply(msgspec.Struct, frozen=True):
    """Recall@10 of the one answer: `found` of the `expected`, at most ten, are among its first ten."""

    found: int
    expected: int
    recall: float


class Health(msgspec.Struct, frozen=True):
    status: Literal["ok", "failed"]


class Readiness(msgspec.Struct, frozen=True):
    ready: bool
    reason: str


class Limits(msgspec.Struct, frozen=True):
    max_texts: int
    max_characters: int
    max_body_bytes: int
    max_hits: int
    queue_texts: int
    batch_tokens: int


class GoldenReport(msgspec.Struct, frozen=True):
    """The golden check at start: cosine to the checkpoint's own vectors."""

    texts: int
    minimum: float
    mean: float


class IndexInfo(msgspec.Struct, frozen=True):
    size: int
    kind: str
    query_prompt: str | None


class Info(msgspec.Struct, frozen=True):
    """What runs. `model_id`, `max_input_length` and `max_client_batch_size` are named as clients of TEI read them."""

    version: str
    fingerprint: str
    model_id: str
    variant: str
    runtime: str
    precision: str
    dimension: int
    dimensions: list[int]
    max_input_length: int
    max_client_batch_size: int
    prompts: list[str]
    default_prompt: str | None
    streams: int
    limits: Limits
    golden: GoldenReport
    index: IndexInfo | None
