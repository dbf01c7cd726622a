"""Routes for clients of Infinity: POST /embeddings and GET /models."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embedship.serve import schemas
from embedship.serve.errors import ApiDialect, TooLong, Unauthorised
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common, openai
from embedship.serve.http.routes.embedding_options import resolve
from embedship.serve.service.model import LoadedModel
from embedship.serve.service.service import ModelService
from embedship.serve.settings import Settings


class InfinityRequest(schemas.EmbeddingsOptions, frozen=True, kw_only=True):
    """Infinity's POST /embeddings. Its client sends dimensions=0 for all dimensions."""

    input: str | list[str]
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    modality: Literal["text"] | None = "text"


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
        Route("POST", "/embeddings", "Embeddings, in Infinity's format", infinity.embeddings, InfinityRequest,
              schemas.Embeddings, ApiDialect.INFINITY, (*common.COMMON, TooLong)),
        Route("GET", "/models", "The models of this server, in Infinity's format", infinity.models,
              response_type=InfinityModels, dialect=ApiDialect.INFINITY, errors=(Unauthorised,)),
    )  # fmt: skip


class InfinityRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._name = service.bundle.manifest.source.name

    async def embeddings(self, request: InfinityRequest, call: RequestInfo) -> Response:
        options = resolve(request, self._model)
        inputs = common.validate_texts(request.input, "input", self._service.settings)
        encoded = await self._service.pipeline.embed(inputs, options.prompt_name, options.truncate, call.lane)
        return await openai.reply(encoded, options, self._name)

    async def models(self, _: None, call: RequestInfo) -> Response:
        cards = [_card(model, self._service.settings) for model in self._service.models]
        return Response(common.encode(InfinityModels(cards, "list")))


def _card(model: LoadedModel, settings: Settings) -> InfinityModel:
    waiting, inside = model.workers.waiting(), model.inference.admission.inside
    stats = InfinityStats(waiting / settings.queue_texts, waiting, inside, settings.batch_tokens)
    return InfinityModel(
        model.bundle.manifest.source.name,
        stats,
        "model",
        openai.created(model.bundle),
        model.encoder.variant.runtime,
        [model.bundle.task],
    )
