"""Routes for Cohere's clients: POST /v1/embed and /v2/embed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from embedship.bundle import VectorCode
from embedship.codes import Vectors
from embedship.packing import quantize_vectors
from embedship.serve.batching.model_client import EncodedTexts
from embedship.serve.errors import ApiDialect, Invalid, TooLong
from embedship.serve.http import float_json
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.http.routes.embedding_options import prompt_for
from embedship.serve.schemas import Dimensions, Strict
from embedship.serve.service.service import ModelService
from embedship.serve.telemetry.request_context import Priority


class CohereRequest(Strict, frozen=True):
    """Cohere's POST /v2/embed, for texts only. A request with `priority` above 0 gets the priority `bulk`."""

    texts: list[str]
    input_type: Literal["search_query", "search_document", "classification", "clustering"]
    model: str | None = None
    embedding_types: list[Literal["float", "int8", "binary", "ubinary", "base64"]] | None = None  # null: float
    output_dimension: Dimensions | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    priority: Annotated[int, Meta(ge=0, le=999)] | None = None


class CohereV1Request(Strict, frozen=True):
    """Cohere's POST /v1/embed, for texts only. Without `input_type`, the default prompt of the model is used."""

    texts: list[str]
    model: str | None = None
    input_type: Literal["search_query", "search_document", "classification", "clustering"] | None = None
    embedding_types: list[Literal["float", "int8", "binary", "ubinary", "base64"]] | None = None
    truncate: Literal["NONE", "START", "END"] | None = None


class CohereEmbeddings(msgspec.Struct, frozen=True, omit_defaults=True):
    """One list per requested type."""

    float_: list[list[float]] | UnsetType = msgspec.field(name="float", default=UNSET)
    int8: list[list[int]] | UnsetType = UNSET
    binary: list[list[int]] | UnsetType = UNSET
    ubinary: list[list[int]] | UnsetType = UNSET
    base64: list[str] | UnsetType = UNSET


class CohereVersion(msgspec.Struct, frozen=True):
    version: str


class CohereUnits(msgspec.Struct, frozen=True):
    input_tokens: int


class CohereMeta(msgspec.Struct, frozen=True):
    """`warnings` names the truncated texts."""

    api_version: CohereVersion
    billed_units: CohereUnits
    warnings: list[str]


class CohereReply(msgspec.Struct, frozen=True):
    id: str
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"]


class CohereV1Reply(msgspec.Struct, frozen=True):
    """Without `embedding_types` in the request, `embeddings` is a list of vectors."""

    id: str
    texts: list[str]
    embeddings: list[list[float]] | CohereEmbeddings
    meta: CohereMeta
    response_type: Literal["embeddings_floats", "embeddings_by_type"]


def routes(service: ModelService) -> tuple[Route, ...]:
    cohere, errors = CohereRoutes(service), (*common.COMMON, TooLong)
    return (
        Route("POST", "/v1/embed", "Embeddings, in the format of Cohere's first version", cohere.embed_v1,
              CohereV1Request, CohereV1Reply, ApiDialect.COHERE, errors),
        Route("POST", "/v2/embed", "Embeddings, in Cohere's format", cohere.embed, CohereRequest,
              CohereReply, ApiDialect.COHERE, errors),
    )  # fmt: skip


class CohereRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._codes = service.bundle.manifest.codes

    async def embed(self, request: CohereRequest, call: RequestInfo) -> Response:
        kinds = ["float"] if request.embedding_types is None else request.embedding_types
        lane = call.lane or (Priority.BULK if request.priority else None)
        encoded = await self._encode(request, kinds, request.output_dimension, lane)
        vectors = common.shorten(encoded.vectors, request.output_dimension)

        def body() -> bytes:
            embeddings, name = self._by_type(kinds, vectors), str(uuid.uuid4())
            meta = _meta(encoded, "2")
            return common.encode(CohereReply(name, embeddings, request.texts, meta, "embeddings_by_type"))

        return Response(await common.serialise(body, len(vectors)), headers=common.truncation_headers(encoded))

    async def embed_v1(self, request: CohereV1Request, call: RequestInfo) -> Response:
        kinds = request.embedding_types
        encoded = await self._encode(request, ["float"] if kinds is None else kinds, None, call.lane)

        def body() -> bytes:
            name, meta = str(uuid.uuid4()), _meta(encoded, "1")
            if kinds is None:
                rows = float_json.to_json_rows(encoded.vectors)
                return common.encode(CohereV1Reply(name, request.texts, rows, meta, "embeddings_floats"))
            embeddings = self._by_type(kinds, encoded.vectors)
            return common.encode(CohereV1Reply(name, request.texts, embeddings, meta, "embeddings_by_type"))

        return Response(await common.serialise(body, len(encoded.vectors)), headers=common.truncation_headers(encoded))

    async def _encode(
        self,
        request: CohereRequest | CohereV1Request,
        kinds: Sequence[str],
        dimensions: int | None,
        lane: Priority | None,
    ) -> EncodedTexts:
        inputs = common.validate_texts(request.texts, "texts", self._service.settings)
        self._check(request.truncate, kinds, dimensions)
        prompt = prompt_for(request.input_type, self._model) if request.input_type else None
        return await self._service.pipeline.embed(inputs, prompt, request.truncate != "NONE", lane)

    def _by_type(self, kinds: Sequence[str], vectors: Vectors) -> CohereEmbeddings:
        # Each type once: a body of 16 MiB can name a type a million times.
        rows: dict[str, Any] = {kind: self._encode_rows(kind, vectors) for kind in dict.fromkeys(kinds)}
        return CohereEmbeddings(float_=rows.pop("float", UNSET), **rows)

    def _check(self, truncate: str | None, kinds: Sequence[str], dimensions: int | None) -> None:
        if not kinds:
            raise Invalid(
                "embedding_types: the list is empty: give at least one type, or remove the field.", "embedding_types"
            )
        common.check_dimensions(dimensions, self._model.dimensions, "output_dimension")
        if truncate == "START":
            raise Invalid(
                "truncate: this server only truncates at the end, as in the training of the model; use END.", "truncate"
            )
        dimension = dimensions or self._model.dimension
        if dimension % 8 and {"binary", "ubinary"} & set(kinds):
            raise Invalid(
                f"embedding_types: {dimension} is not a multiple of 8, so the bits cannot be packed into bytes.",
                "embedding_types",
            )

    def _encode_rows(self, kind: str, vectors: Vectors) -> Any:
        if kind == "float":
            return float_json.to_json_rows(vectors)
        if kind == "base64":
            return common.base64_rows(vectors)
        if kind == "binary":
            # Cohere's signed bytes are the unsigned ones minus 128, not the same bits interpreted as signed.
            return (
                quantize_vectors(vectors, VectorCode.UBINARY, self._model, self._codes).astype(np.int16) - 128
            ).tolist()
        return quantize_vectors(vectors, VectorCode(kind), self._model, self._codes).tolist()


def _meta(encoded: EncodedTexts, version: str) -> CohereMeta:
    warnings = [
        f"Text {place} was too long for the model: {lost} tokens at its end were truncated."
        for place, lost in enumerate(encoded.cut)
        if lost
    ]
    return CohereMeta(CohereVersion(version), CohereUnits(encoded.tokens), warnings)
