"""Types of the routes about the server: models, limits, health, reload."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embedship.bundle import VectorCode
from embedship.serve.documents.chunking import Chunking
from embedship.serve.schemas.embeddings import Strict


class ModelCard(msgspec.Struct, frozen=True):
    """A model in GET /v1/models. `created` is the time at which the bundle was written, in Unix seconds."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: list[ModelCard]


class ReloadRequest(Strict, frozen=True):
    """POST /admin/reload: folders on the server's file system; an index can also be milvus://HOST:PORT/COLLECTION.

    A path that is not given is read again from where the current bundle or index was read. `candidate`: replace the
    current bundle and index with the candidate's; the server then has no candidate.
    """

    bundle: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    index: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    candidate: bool | None = False


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
