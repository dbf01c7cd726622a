"""What the routes take and give. The OpenAPI document is generated from these, so it cannot say anything else.

The dialects of Infinity and Cohere, which nobody else speaks, lie with their routes.

/v1/embeddings tolerates fields it does not know, because OpenAI's clients send more of them with every release. /embed
and /search refuse them: there a misspelt `trunkate` would be silently ignored.
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

Dimensions = Annotated[int, Meta(ge=1, description="Keep the first so many components and renormalise.")]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unknown fields are errors."""


class _EmbeddingsOptions(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    user: str | None = None


class EmbeddingsRequest(_EmbeddingsOptions, frozen=True, kw_only=True):
    """OpenAI's POST /v1/embeddings. `model` may be any name; the reply says which model answered."""

    input: str | list[str]


class TokensRequest(_EmbeddingsOptions, frozen=True, kw_only=True):
    """The same where the server accepts token ids: a text, ids, or a list of texts or of ids, not mixed."""

    input: str | list[str | int | list[int]]


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


class SimilarityInputs(Strict, frozen=True):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Strict, frozen=True):
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None


class SimilarityRequest(Strict, frozen=True):
    """POST /similarity of text-embeddings-inference: the cosine of one sentence to each of the others."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TokenizeRequest(Strict, frozen=True):
    """POST /tokenize of text-embeddings-inference: what the model reads of each text."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class Token(msgspec.Struct, frozen=True):
    """`start` and `stop` are characters of the text, prompt included; a special token has none."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(Strict, frozen=True):
    """POST /decode of text-embeddings-inference: one list of ids, or several."""

    ids: list[int | list[int]]
    skip_special_tokens: bool = True


class ModelCard(msgspec.Struct, frozen=True):
    """A model as GET /v1/models gives it; `created` is when the bundle was written, in Unix seconds."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: list[ModelCard]


class EncodeRequest(Strict, frozen=True):
    """POST /v1/encode. `dtype`: what the rows are made of; int8 and ubinary are the bundle's own frozen codes."""

    texts: str | list[str]
    dtype: VectorCode = VectorCode.FLOAT32
    prompt_name: str | None = None
    dimensions: Dimensions | None = None
    truncate: bool = True


class EncodeReply(msgspec.Struct, frozen=True):
    """`tokens` and `cut` have an entry a text: how many were computed, and how many were cut off."""

    vectors: list[list[float]]
    dtype: VectorCode
    shape: list[int]
    fingerprint: str
    tokens: list[int]
    cut: list[int]


class Rerank(Strict, frozen=True):
    """Find `top` documents, and let the re-ranker say which of them are the best."""

    top: Annotated[int, Meta(ge=1)] = 50


class SearchRequest(Strict, frozen=True):
    """`filter` holds conditions on metadata: {"kind": "drug", "year": {"gte": 2000}, "tag": {"in": ["a", "b"]}}.

    `effort` turns recall into time for this one search, where the index has something to turn. Where documents were cut
    into chunks, a hit is the best chunk of a document; with `per_document` false every chunk may be one.
    """

    query: str | list[str]
    k: Annotated[int, Meta(ge=1)] = 10
    mode: SearchMode = SearchMode.DENSE
    filter: Filter | None = None
    effort: SearchEffort | None = None
    per_document: bool = True
    rerank: Rerank | None = None


class Place(msgspec.Struct, frozen=True):
    """Where one of the two searches had a hit: its rank, from 1, and its score there."""

    rank: int
    score: float


class SearchHit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document and its score; `title` and `metadata` where the document has them.

    Where documents were cut, `text` is that of a chunk: characters `start` to `end` of the document, says `chunk`.

    The score is the cosine to the query in mode dense, BM25 in mode keyword, and in mode hybrid the sum of
    1 / (60 + rank) over `dense` and `keyword`, each given where that search had the document among its first.
    Of a search that was re-ranked it is the re-ranker's, between 0 and 1, and `retrieved` says where the document was
    before, and with which of those scores.
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
    """The hits of one query, best first."""

    hits: list[SearchHit]


class SearchReply(msgspec.Struct, frozen=True):
    """One result a query, in the order of the queries. `usage` counts the pairs that were re-ranked, too."""

    results: list[SearchResult]
    usage: Usage


DocumentId = Annotated[str, Meta(min_length=1, max_length=1024)]


class NewDocument(Strict, frozen=True):
    """A document as `embedship index` takes it; `metadata` is what filters look at."""

    id: DocumentId
    text: Annotated[str, Meta(min_length=1)]
    title: str | None = None
    metadata: dict[str, Any] = {}


class DocumentsRequest(Strict, frozen=True):
    """Put documents, new or in the place of those that have their ids, and delete others: all of it or nothing."""

    documents: list[NewDocument] = []
    delete: list[DocumentId] = []


class Truncated(msgspec.Struct, frozen=True):
    """A document that is longer than the model reads, and how many tokens were cut off."""

    id: str
    tokens: int


class DocumentsReply(msgspec.Struct, frozen=True):
    """It is on the disk, and every search from now on sees it. `unchanged` were there already, word for word."""

    new: int
    replaced: int
    unchanged: int
    deleted: int
    truncated: list[Truncated]


class DeletedReply(msgspec.Struct, frozen=True):
    """`deleted` is 0 where there was no document of this id: it may be sent again."""

    deleted: int


class DocumentReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document as it is now; `title` and `metadata` where it has them."""

    id: str
    text: str
    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class FeedbackRequest(Strict, frozen=True):
    """What was right: for an answer of /search by its X-Request-Id, or for a query.

    With `query`, `hits` are the ids that were answered, best first; without `hits` the query is searched again. Where a
    request held several queries, `result` is the place of the one that is judged, from 0.
    """

    relevant: Annotated[list[DocumentId], Meta(min_length=1, max_length=100)]
    request_id: Annotated[str, Meta(max_length=128)] | None = None
    result: Annotated[int, Meta(ge=0)] = 0
    query: Annotated[str, Meta(min_length=1)] | None = None
    hits: Annotated[list[DocumentId], Meta(max_length=1000)] | None = None


class FeedbackReply(msgspec.Struct, frozen=True):
    """Recall@10 of the one answer: `found` of the `expected`, at most ten, are among its first ten."""

    found: int
    expected: int
    recall: float


class ReloadRequest(Strict, frozen=True):
    """Folders on the server's own file system, and for an index also milvus://HOST:PORT/COLLECTION; without one, what
    lies where that lies which answers now is read again.

    `candidate`: take up the candidate's bundle and index; from then on there is none.
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
    """One device: a stream of the engine in the server's process, or a worker process."""

    name: str
    up: bool
    streams: int
    restarts: int
    batches: int


class GoldenReport(msgspec.Struct, frozen=True):
    """The golden check at start: cosine to the checkpoint's own vectors."""

    texts: int
    minimum: float
    mean: float


class IndexInfo(msgspec.Struct, frozen=True):
    """`size` counts documents, `rows` vectors; `exact` is the code of the exact vectors that lie on disk."""

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
    """The re-ranker; `golden` are its likenesses to the checkpoint's own scores."""

    fingerprint: str
    model_id: str
    variant: str
    runtime: str
    precision: str
    max_input_length: int
    golden: GoldenReport


class Info(msgspec.Struct, frozen=True):
    """What runs. The names from `model_id` on that begin with model_, max_ or auto_ are those clients of TEI read."""

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
