"""Route for Cohere's clients: POST /v2/embed."""

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
from embedship.serve.schemas import Dimensions, Strict
from embedship.serve.service.service import ModelService
from embedship.serve.telemetry.request_context import Priority

# Cohere's input types and names of prompts. The first prompt that the model has is used, or else its default prompt.
_PROMPTS = {
    "search_query": ("query",),
    "search_document": ("document", "passage", "corpus"),
    "classification": ("classification",),
    "clustering": ("clustering",),
}


class CohereRequest(Strict, frozen=True):
    """Cohere's POST /v2/embed, for texts only. A request with `priority` above 0 gets the priority `bulk`."""

    texts: list[str]
    input_type: Literal["search_query", "search_document", "classification", "clustering"]
    model: str | None = None
    embedding_types: list[Literal["float", "int8", "binary", "ubinary", "base64"]] | None = None  # null: float
    output_dimension: Dimensions | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    priority: Annotated[int, Meta(ge=0, le=999)] | None = None


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


def routes(service: ModelService) -> tuple[Route, ...]:
    return (
        Route("POST", "/v2/embed", "Embeddings, in Cohere's format", CohereRoutes(service).embed, CohereRequest,
              CohereReply, ApiDialect.COHERE, (*common.COMMON, TooLong)),
    )  # fmt: skip


class CohereRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._codes = service.bundle.manifest.codes

    async def embed(self, request: CohereRequest, call: RequestInfo) -> Response:
        inputs = common.validate_texts(request.texts, "texts", self._service.settings)
        # Each type once: a body of 16 MiB can name a type a million times.
        kinds = ["float"] if request.embedding_types is None else list(dict.fromkeys(request.embedding_types))
        self._check(request, kinds)
        lane = call.lane or (Priority.BULK if request.priority else None)
        prompt = next((name for name in _PROMPTS[request.input_type] if name in self._model.prompts), None)
        encoded = await self._service.pipeline.embed(inputs, prompt, request.truncate != "NONE", lane)
        vectors = common.shorten(encoded.vectors, request.output_dimension)

        def body() -> bytes:
            rows: dict[str, Any] = {kind: self._encode_rows(kind, vectors) for kind in kinds}
            embeddings = CohereEmbeddings(float_=rows.pop("float", UNSET), **rows)
            name = str(uuid.uuid4())
            return common.encode(CohereReply(name, embeddings, inputs, _meta(encoded), "embeddings_by_type"))

        return Response(await common.serialise(body, len(vectors)), headers=common.truncation_headers(encoded))

    def _check(self, request: CohereRequest, kinds: Sequence[str]) -> None:
        if not kinds:
            raise Invalid(
                "embedding_types: the list is empty: give at least one type, or remove the field.", "embedding_types"
            )
        if (wanted := request.output_dimension) is not None and wanted not in self._model.dimensions:
            known = ", ".join(map(str, self._model.dimensions))
            raise Invalid(
                f"output_dimension: the model was not trained for {wanted} dimensions; use one of: {known}.",
                "output_dimension",
            )
        if request.truncate == "START":
            raise Invalid(
                "truncate: this server only truncates at the end, as in the training of the model; use END.", "truncate"
            )
        dimension = wanted or self._model.dimension
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


def _meta(encoded: EncodedTexts) -> CohereMeta:
    warnings = [
        f"Text {place} was too long for the model: {lost} tokens at its end were truncated."
        for place, lost in enumerate(encoded.cut)
        if lost
    ]
    return CohereMeta(CohereVersion("2"), CohereUnits(encoded.tokens), warnings)
