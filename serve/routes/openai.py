"""POST /v1/embeddings, as OpenAI's clients speak it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from embedship.codes import Vectors
from embedship.serve import digits, schemas
from embedship.serve.errors import Family
from embedship.serve.http import Call, Reply, Route
from embedship.serve.routes import texts
from embedship.serve.service import Service

_Write = Callable[[Vectors], Sequence[list[float] | str]]


def routes(service: Service) -> tuple[Route, ...]:
    return (
        Route(
            "POST", "/v1/embeddings", "Vectors, as OpenAI gives them", OpenAI(service).embeddings,
            schemas.EmbeddingsRequest, schemas.Embeddings, Family.OPENAI, texts.COMMON,
        ),
    )  # fmt: skip


class OpenAI:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._name = service.bundle.manifest.source.name

    async def embeddings(self, request: schemas.EmbeddingsRequest, call: Call) -> Reply:
        inputs = texts.checked(request.input, "input", self._service.settings)
        texts.check_dimensions(request.dimensions, self._model.dimensions)
        encoded = await self._service.pipeline.embed(inputs, None)
        vectors = texts.shortened(encoded.vectors, request.dimensions)
        write: _Write = texts.base64_rows if request.encoding_format == "base64" else digits.rows

        def reply() -> bytes:
            data = [schemas.Embedding("embedding", i, row) for i, row in enumerate(write(vectors))]
            return texts.encode(schemas.Embeddings("list", data, self._name, texts.usage(encoded)))

        return Reply(await texts.written(reply, len(vectors)), headers=texts.truncated(encoded))
