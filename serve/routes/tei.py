"""POST /embed and /, as clients of text-embeddings-inference speak it."""

from __future__ import annotations

from dataclasses import replace

from embedship.codes import normalise
from embedship.serve import digits, schemas
from embedship.serve.errors import Family, Invalid, TooLong
from embedship.serve.http import Call, Reply, Route
from embedship.serve.routes import texts
from embedship.serve.service import Service


def routes(service: Service) -> tuple[Route, ...]:
    embed = Route(
        "POST", "/embed", "Vectors, as text-embeddings-inference gives them", Tei(service).embed,
        schemas.EmbedRequest, list[list[float]], Family.FLAT, (*texts.COMMON, TooLong),
    )  # fmt: skip
    # huggingface_hub posts to the very address it is given, which often has no path.
    return embed, replace(embed, path="/")


class Tei:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._model = service.bundle.manifest.pipeline

    async def embed(self, request: schemas.EmbedRequest, call: Call) -> Reply:
        inputs = texts.checked(request.inputs, "inputs", self._service.settings)
        self._check(request)
        encoded = await self._service.pipeline.embed(inputs, request.prompt_name, request.truncate is not False)
        vectors = texts.shortened(encoded.vectors, request.dimensions)
        if request.normalize is not False and not self._model.normalised:
            vectors = normalise(vectors)
        body = await texts.written(lambda: texts.encode(digits.rows(vectors)), len(vectors))
        return Reply(body, headers=texts.truncated(encoded))

    def _check(self, request: schemas.EmbedRequest) -> None:
        texts.check_dimensions(request.dimensions, self._model.dimensions)
        if request.truncation_direction in ("left", "Left"):
            raise Invalid(
                "truncation_direction: this server cuts on the right only, as the model was trained; leave it out.",
                "truncation_direction",
            )
        if request.normalize is False and self._model.normalised:
            raise Invalid(
                "normalize: this model's own pipeline ends in a normalisation, there are no other vectors; leave it "
                "out.",
                "normalize",
            )
        if request.parameters:
            raise Invalid("parameters: give the options beside `inputs`, not inside `parameters`.", "parameters")
