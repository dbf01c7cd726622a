"""Request and response types of the routes. The OpenAPI document is generated from them, so it always matches.

The types that only the dialects of Infinity and Cohere use are defined next to their routes.

/v1/embeddings ignores unknown fields, because each release of OpenAI's clients sends more of them. /embed and /search
reject unknown fields; otherwise a misspelt `trunkate` would be silently ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from embedship.bundle import VectorCode
from embedship.serve.documents.chunking import Chunking
from embedship.serve.documents.filters import Filter
from embedship.serve.documents.store import Chunk
from embedship.serve.index.effort import SearchEffort
from embedship.serve.search.fusion import SearchMode

Dimensions = Annotated[int, Meta(ge=1, description="Keep this many leading components and renormalise.")]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of requests that reject unknown fields."""


class _EmbeddingsOptions(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    user: str | None = None


class EmbeddingsRequest(_EmbeddingsOptions, frozen=True, kw_only=True):
    """OpenAI's POST /v1/embeddings. `model` may be any name; the response names the model of this server."""

    input: str | list[str]


class TokensRequest(_EmbeddingsOptions, frozen=True, kw_only=True):
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
    add_special_tokens: bool = True
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
    skip_special_tokens: bool = True


class ModelCard(msgspec.Struct, frozen=True):
    """A model in GET /v1/models. `created` is the time at which the bundle was written, in Unix seconds."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: list[ModelCard]


class EncodeRequest(Strict, frozen=True):
    """POST /v1/encode. `dtype` is the data type of the rows; int8 and ubinary use the calibration in the bundle."""

    texts: str | list[str]
    dtype: VectorCode = VectorCode.FLOAT32
    prompt_name: str | None = None
    dimensions: Dimensions | None = None
    truncate: bool = True


class EncodeReply(msgspec.Struct, frozen=True):
    """Vectors of the texts. `tokens` and `cut` have one entry per text: its computed and its truncated tokens."""

    vectors: list[list[float]]
    dtype: VectorCode
    shape: list[int]
    fingerprint: str
    tokens: list[int]
    cut: list[int]


class Rerank(Strict, frozen=True):
    """Find `top` documents, and re-rank them with the re-ranker."""

    top: Annotated[int, Meta(ge=1)] = 50


class SearchRequest(Strict, frozen=True):
    """POST /search: finds the `k` best hits for one query or several.

    `filter` contains conditions on metadata: {"kind": "drug", "year": {"gte": 2000}, "tag": {"in": ["a", "b"]}}.

    `effort` trades speed for recall in this search, if the index has such a parameter. In an index of chunks, a hit is
    the best chunk of a document; with `per_document` false, several chunks of a document can be hits.
    """

    query: str | list[str]
    k: Annotated[int, Meta(ge=1)] = 10
    mode: SearchMode = SearchMode.DENSE
    filter: Filter | None = None
    effort: SearchEffort | None = None
    per_document: bool = True
    rerank: Rerank | None = None


class Place(msgspec.Struct, frozen=True):
    """Rank (from 1) and score of a hit in one of the two searches."""

    rank: int
    score: float


class SearchHit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document and its score. `title` and `metadata` are present if the document has them.

    In an index of chunks, `text` is the text of a chunk, and `chunk` gives its position: characters `start` to `end` of
    the document.

    The score is the cosine to the query in mode dense, BM25 in mode keyword, and in mode hybrid the sum of
    1 / (60 + rank) over `dense` and `keyword`; each of them is present if that search ranked the document high enough.
    In a re-ranked search, the score is the re-ranker's, between 0 and 1; `retrieved` gives the rank and score of the
    document before re-ranking.
    """

    id: str
    score: float
    text: str
    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    chunk: Chunk | UnsetType = UNSET
    dense: Place | UnsetType = UNSET
    keyword: Place | UnsetType = UNSET
    retrieved: Place | UnsetType = UNSET


class SearchResult(msgspec.Struct, frozen=True):
    """Hits of one query, best first."""

    hits: list[SearchHit]


class SearchReply(msgspec.Struct, frozen=True):
    """One result per query, in the order of the queries. `usage` includes the tokens of re-ranked pairs."""

    results: list[SearchResult]
    usage: Usage


DocumentId = Annotated[str, Meta(min_length=1, max_length=1024)]


class NewDocument(Strict, frozen=True):
    """A document, as in the input of `embedship index`. Filters apply to `metadata`."""

    id: DocumentId
    text: Annotated[str, Meta(min_length=1)]
    title: str | None = None
    metadata: dict[str, Any] = {}


class DocumentsRequest(Strict, frozen=True):
    """Documents to add or replace, by id, and ids to delete. Either all changes are made, or none."""

    documents: list[NewDocument] = []
    delete: list[DocumentId] = []


class Truncated(msgspec.Struct, frozen=True):
    """A document that is too long for the model, and the number of truncated tokens."""

    id: str
    tokens: int


class DocumentsReply(msgspec.Struct, frozen=True):
    """Counts of the changes, which are durable and visible to every following search.

    `unchanged` documents were identical before.
    """

    new: int
    replaced: int
    unchanged: int
    deleted: int
    truncated: list[Truncated]


class DeletedReply(msgspec.Struct, frozen=True):
    """Number of deleted documents: 0 if there was none with this id. The request can safely be repeated."""

    deleted: int


class DocumentReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The current version of a document. `title` and `metadata` are present if the document has them."""

    id: str
    text: str
    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class FeedbackRequest(Strict, frozen=True):
    """Relevant documents of a search, which is given by its X-Request-Id, or by its query.

    With `query`, `hits` are the ids that the search returned, best first; without `hits` the query is searched again.
    If a request contained several queries, `result` is the index of the judged one, from 0.
    """

    relevant: Annotated[list[DocumentId], Meta(min_length=1, max_length=100)]
    request_id: Annotated[str, Meta(max_length=128)] | None = None
    result: Annotated[int, Meta(ge=0)] = 0
    query: Annotated[str, Meta(min_length=1)] | None = None
    hits: Annotated[list[DocumentId], Meta(max_length=1000)] | None = None


class FeedbackReply(msgspec.Struct, frozen=True):
    """Recall@10 of this search: `found` of the `expected` documents (at most ten) are among its first ten hits."""

    found: int
    expected: int
    recall: float


class ReloadRequest(Strict, frozen=True):
    """POST /admin/reload: folders on the server's file system; an index can also be milvus://HOST:PORT/COLLECTION.

    A path that is not given is read again from where the current bundle or index was read. `candidate`: replace the
    current bundle and index with the candidate's; the server then has no candidate.
    """

    bundle: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    index: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    candidate: bool = False


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


class DeviceInfo(msgspec.Struct, frozen=True):
    """One device: a stream of the engine in the server process, or a worker process."""

    name: str
    up: bool
    streams: int
    restarts: int
    batches: int


class GoldenReport(msgspec.Struct, frozen=True):
    """Golden check at startup: cosines between this server's vectors and the checkpoint's."""

    texts: int
    minimum: float
    mean: float


class IndexInfo(msgspec.Struct, frozen=True):
    """The index. `size`: documents; `rows`: vectors; `exact`: data type of the exact vectors on disk."""

    size: int
    kind: str
    query_prompt: str | None
    rows: int
    chunking: Chunking | None
    exact: VectorCode


class TeiPoolingInfo(msgspec.Struct, frozen=True):
    pooling: str


class TeiType(msgspec.Struct, frozen=True):
    embedding: TeiPoolingInfo


class RerankerInfo(msgspec.Struct, frozen=True):
    """The re-ranker; `golden` compares its scores with the checkpoint's."""

    fingerprint: str
    model_id: str
    variant: str
    runtime: str
    precision: str
    max_input_length: int
    golden: GoldenReport


class Info(msgspec.Struct, frozen=True):
    """The running model and its limits. Clients of TEI read `model_id` and the fields model_*, max_* and auto_*."""

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
    max_concurrent_requests: int
    max_batch_tokens: int
    model_sha: str | None
    model_dtype: str
    model_type: TeiType
    auto_truncate: bool
    prompts: list[str]
    default_prompt: str | None
    streams: int
    devices: list[DeviceInfo]
    limits: Limits
    golden: GoldenReport
    reranker: RerankerInfo | None
    index: IndexInfo | None
