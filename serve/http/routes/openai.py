"""Routes for OpenAI's clients: POST /v1/embeddings and GET /v1/models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import cast

from embedship.bundle import Bundle
from embedship.codes import Vectors, normalise
from embedship.serve import schemas
from embedship.serve.batching.model_client import EncodedTexts
from embedship.serve.errors import ApiDialect, Invalid, TooLong, Unauthorised, UnknownPath
from embedship.serve.http import float_json
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.http.routes.embedding_options import VectorOptions, resolve
from embedship.serve.service.service import ModelService

_Write = Callable[[Vectors], Sequence[list[float] | str]]


def routes(service: ModelService) -> tuple[Route, ...]:
    openai = OpenAIRoutes(service)
    ids = service.settings.accept_token_ids
    errors = (*common.COMMON, TooLong)
    return (
        Route(
            "POST", "/v1/embeddings", "Embeddings, in OpenAI's format", openai.tokens if ids else openai.embeddings,
            schemas.TokensRequest if ids else schemas.EmbeddingsRequest, schemas.Embeddings, ApiDialect.OPENAI, errors,
        ),
        Route("GET", "/v1/models", "The model of this server", openai.models, response_type=schemas.Models,
              dialect=ApiDialect.OPENAI, errors=(Unauthorised,)),
        Route("GET", "/v1/models/{model}", "A model by its name", openai.model, response_type=schemas.ModelCard,
              dialect=ApiDialect.OPENAI, errors=(Unauthorised, UnknownPath)),
    )  # fmt: skip


def created(bundle: Bundle) -> int:
    """Return the time at which the bundle was written, in Unix seconds."""
    return int(datetime.fromisoformat(bundle.manifest.created).timestamp())


async def reply(encoded: EncodedTexts, options: VectorOptions, name: str) -> Response:
    """Return vectors in OpenAI's format, as the options say."""
    vectors = common.shorten(encoded.vectors, options.dimensions)
    if options.normalise:
        vectors = normalise(vectors)
    write: _Write = common.base64_rows if options.base64 else float_json.to_json_rows

    def body() -> bytes:
        data = [schemas.Embedding("embedding", i, row) for i, row in enumerate(write(vectors))]
        return common.encode(schemas.Embeddings("list", data, name, common.usage(encoded)))

    return Response(await common.serialise(body, len(vectors)), headers=common.truncation_headers(encoded))


class OpenAIRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._name = service.bundle.manifest.source.name
        self._card = schemas.ModelCard(self._name, "model", created(service.bundle), "embedship")

    async def embeddings(self, request: schemas.EmbeddingsRequest, call: RequestInfo) -> Response:
        options = resolve(request, self._model)
        return await self._embed(request.input, options, call)

    async def _embed(self, texts: str | list[str], options: VectorOptions, call: RequestInfo) -> Response:
        inputs = common.validate_texts(texts, "input", self._service.settings)
        encoded = await self._service.pipeline.embed(inputs, options.prompt_name, options.truncate, call.lane)
        return await reply(encoded, options, self._name)

    async def tokens(self, request: schemas.TokensRequest, call: RequestInfo) -> Response:
        """Handle the same route on servers that also accept token ids instead of texts."""
        options = resolve(request, self._model)
        if (ids := _ids(request.input)) is None:
            return await self._embed(cast("str | list[str]", request.input), options, call)
        if options.prompt_name is not None:
            raise Invalid("input: no prompt can be put before token ids; send texts, or remove the prompt.", "input")
        common.check_count(len(ids), "input", self._service.settings)
        encoded = await self._service.inference.encode_token_ids(ids, call.lane)
        return await reply(encoded, options, self._name)

    async def models(self, _: None, call: RequestInfo) -> Response:
        return Response(common.encode(schemas.Models("list", [self._card])))

    async def model(self, _: None, call: RequestInfo) -> Response:
        if call.path_parameter != self._name:
            raise UnknownPath(f"This server has no model {call.path_parameter!r}. Its model is: {self._name}.", "model")
        return Response(common.encode(self._card))


def _ids(value: str | list[str | int | list[int]]) -> list[list[int]] | None:
    """Return one list of token ids per text, or None if texts were sent. Raises Invalid for a mixture."""
    kinds = {type(each) for each in value} if isinstance(value, list) else {str}
    if len(kinds) > 1:
        raise Invalid(
            "input: send texts, or the ids of one text, or a list of lists of ids, but not a mixture.", "input"
        )
    if kinds == {int}:
        return [cast("list[int]", value)]
    return cast("list[list[int]]", value) if kinds == {list} else None
