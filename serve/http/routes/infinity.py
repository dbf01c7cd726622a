"""POST /embeddings and GET /models, as clients of Infinity speak them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embedship.serve import schemas
from embedship.serve.errors import ApiDialect, Unauthorised
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common, openai
from embedship.serve.service.model import LoadedModel
from embedship.serve.service.service import ModelService
from embedship.serve.settings import Settings


class InfinityRequest(msgspec.Struct, frozen=True):
    """Infinity's POST /embeddings. Its client sends dimensions=0 where it wants all of them."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    user: str | None = None
    modality: Literal["text"] = "text"


class InfinityStats(msgspec.Struct, frozen=True):
    queue_fraction: float
    queue_absolute: int
    results_pending: int
    batch_size: int


class InfinityModel(msgspec.Struct, frozen=True):
    id: str
    stats: InfinityStats
    object: Literal["model"]
    created: int
    backend: str
    capabilities: list[str]


class InfinityModels(msgspec.Struct, frozen=True):
    data: list[InfinityModel]
    object: Literal["list"]


def routes(service: ModelService) -> tuple[Route, ...]:
    infinity = InfinityRoutes(service)
    return (
        Route("POST", "/embeddings", "Vectors, as Infinity gives them", infinity.embeddings, InfinityRequest,
              schemas.Embeddings, ApiDialect.INFINITY, common.COMMON),
        Route("GET", "/models", "The models that run here, as Infinity says it", infinity.models,
              gives=InfinityModels, family=ApiDialect.INFINITY, errors=(Unauthorised,)),
    )  # fmt: skip


class InfinityRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._name = service.bundle.manifest.source.name

    async def embeddings(self, request: InfinityRequest, call: RequestInfo) -> Response:
        inputs = common.validate_texts(request.input, "input", self._service.settings)
        dimensions = request.dimensions or None
        common.check_dimensions(dimensions, self._model.dimensions)
        encoded = await self._service.pipeline.embed(inputs, None, lane=call.lane)
        return await openai.reply(encoded, dimensions, request.encoding_format == "base64", self._name)

    async def models(self, _: None, call: RequestInfo) -> Response:
        cards = [_card(model, self._service.settings) for model in self._service.models]
        return Response(common.encode(InfinityModels(cards, "list")))


def _card(model: LoadedModel, settings: Settings) -> InfinityModel:
    waiting, inside = model.workers.waiting(), model.forward.admission.inside
    stats = InfinityStats(waiting / settings.queue_texts, waiting, inside, settings.batch_tokens)
    return InfinityModel(
        model.bundle.manifest.source.name,
        stats,
        "model",
        openai.created(model.bundle),
        model.encoder.variant.runtime,
        [model.bundle.task],
    )
