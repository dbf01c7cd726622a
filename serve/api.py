"""The routes: what each does with a request that has the right shape."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from embedship.codes import Vectors, cut, normalise
from embedship.monitor.watch import Status
from embedship.serve import digits, openapi, page, schemas
from embedship.serve.errors import (
    ClientGone,
    EngineFailed,
    Family,
    Internal,
    Invalid,
    Malformed,
    NoIndex,
    Overloaded,
    TooLarge,
    TooLong,
    Unauthorised,
    UnknownAnswer,
)  # fmt: skip
from embedship.serve.house import House
from embedship.serve.http import Headers, Reply, Route
from embedship.serve.pipeline import Answered, Encoded
from embedship.serve.service import Service
from embedship.serve.shelf import Hit

# A judgement is short: a query, a hundred right ids and a thousand answered ones.
_FEEDBACK_BYTES = 1024 * 1024

# Longer answers are written in a thread: 2,048 vectors take 50 ms.
_LONG_ROWS = 64

_COMMON = (Unauthorised, Malformed, Invalid, TooLarge, Overloaded, ClientGone, EngineFailed, Internal)
_ENCODE = msgspec.json.Encoder().encode
_Write = Callable[[Vectors], Sequence[list[float] | str]]


class Api:
    """Of one service: a reload makes another."""

    def __init__(self, house: House, service: Service) -> None:
        self._house = house
        self._service = service
        self._model = service.bundle.manifest.pipeline
        self._name = service.bundle.manifest.source.name
        self.routes = self._routes()
        self._openapi = _ENCODE(openapi.document(self.routes, locked=len(house.keys) > 0))

    def _routes(self) -> tuple[Route, ...]:
        embed = Route(
            "POST", "/embed", "Vectors, as text-embeddings-inference gives them", self.embed,
            schemas.EmbedRequest, list[list[float]], Family.FLAT, (*_COMMON, TooLong),
        )  # fmt: skip
        return (
            Route(
                "POST", "/v1/embeddings", "Vectors, as OpenAI gives them", self.embeddings,
                schemas.EmbeddingsRequest, schemas.Embeddings, Family.OPENAI, _COMMON,
            ),
            embed,
            # huggingface_hub posts to the very address it is given, which often has no path.
            replace(embed, path="/"),
            Route(
                "POST", "/search", "The documents most similar to a query", self.search,
                schemas.SearchRequest, schemas.SearchReply, Family.FLAT, (*_COMMON, NoIndex), judged=True,
            ),
            Route(
                "POST", "/feedback", "Which documents were right", self.feedback, schemas.FeedbackRequest,
                schemas.FeedbackReply, Family.FLAT, (*_COMMON, NoIndex, UnknownAnswer), body_bytes=_FEEDBACK_BYTES,
            ),
            Route("GET", "/health", "Whether the process can work: restart it if not", self.health,
                  gives=schemas.Health, unready=True, open=True),
            Route("GET", "/ready", "Whether to send requests here", self.ready, gives=schemas.Readiness, unready=True,
                  open=True),
            Route("GET", "/info", "What runs here", self.info, gives=schemas.Info,
                  errors=(Unauthorised,)),
            Route("GET", "/monitor", "What the monitor knows: diagnosis, reports, evidence", self.monitor,
                  gives=Status, errors=(Unauthorised,)),
            *page.routes(),
            Route("GET", "/metrics", "Prometheus metrics", self.metrics, open=True),
            Route("GET", "/openapi.json", "This document", self.openapi, gives=dict[str, Any],
                  open=True),
        )  # fmt: skip

    async def embeddings(self, request: schemas.EmbeddingsRequest) -> Reply:
        texts = self._texts(request.input, "input")
        self._check_dimensions(request.dimensions)
        encoded = await self._service.pipeline.embed(texts, None)
        vectors = _cut(encoded.vectors, request.dimensions)
        write: _Write = _base64 if request.encoding_format == "base64" else digits.rows

        def reply() -> bytes:
            data = [schemas.Embedding("embedding", i, row) for i, row in enumerate(write(vectors))]
            return _ENCODE(schemas.Embeddings("list", data, self._name, _usage(encoded)))

        return Reply(await _written(reply, len(vectors)), headers=_truncated(encoded))

    async def embed(self, request: schemas.EmbedRequest) -> Reply:
        texts = self._texts(request.inputs, "inputs")
        self._check_embed(request)
        encoded = await self._service.pipeline.embed(texts, request.prompt_name, request.truncate is not False)
        vectors = _cut(encoded.vectors, request.dimensions)
        if request.normalize is not False and not self._model.normalised:
            vectors = normalise(vectors)
        return Reply(await _written(lambda: _ENCODE(digits.rows(vectors)), len(vectors)), headers=_truncated(encoded))

    async def search(self, request: schemas.SearchRequest) -> Reply:
        queries = self._texts(request.query, "query")
        if request.k > (most := self._service.settings.max_hits):
            raise Invalid(f"k: {request.k} is too many hits, this server gives at most {most}.", "k")
        if len(queries) * request.k > 10 * most:
            raise TooLarge(
                f"query: {len(queries)} queries of {request.k} hits are too many for one answer, this server gives "
                f"at most {10 * most} hits a request: send fewer queries, or ask for fewer hits.",
                "query",
            )
        answered = await self._service.pipeline.search(queries, request.k)

        def reply() -> bytes:
            results = [schemas.SearchResult([_hit(hit) for hit in hits]) for hits in answered.found.hits]
            return _ENCODE(schemas.SearchReply(results, _usage(answered)))

        headers = (*_truncated(answered), (b"x-request-id", answered.request_id.encode()))
        return Reply(await _written(reply, len(queries)), headers=headers)

    async def feedback(self, request: schemas.FeedbackRequest) -> Reply:
        if request.query is not None:
            self._texts(request.query, "query")
        judged = await self._service.judge.feedback(request)
        return Reply(_ENCODE(schemas.FeedbackReply(judged.found, judged.expected, judged.found / judged.expected)))

    async def monitor(self, _: None) -> Reply:
        return Reply(_ENCODE(self._service.watch.report()))

    async def health(self, _: None) -> Reply:
        alive = self._service.workers.alive
        return Reply(_ENCODE(schemas.Health("ok" if alive else "failed")), 200 if alive else 503)

    async def ready(self, _: None) -> Reply:
        readiness = self._house.readiness
        return Reply(_ENCODE(readiness), 200 if readiness.ready else 503)

    async def info(self, _: None) -> Reply:
        return Reply(_ENCODE(self._service.info()))

    async def metrics(self, _: None) -> Reply:
        return Reply(generate_latest(self._house.registry), content_type=CONTENT_TYPE_PLAIN_0_0_4.encode())

    async def openapi(self, _: None) -> Reply:
        return Reply(self._openapi)

    def _texts(self, value: str | list[str], field: str) -> list[str]:
        texts = [value] if isinstance(value, str) else value
        limits = self._service.settings
        if not texts:
            raise Invalid(f"{field}: the list is empty, give at least one text.", field)
        if len(texts) > limits.max_texts:
            raise TooLarge(f"{field}: {len(texts)} texts, this server takes {limits.max_texts} a request.", field)
        if (longest := max(map(len, texts))) > limits.max_characters:
            where = next(i for i, text in enumerate(texts) if len(text) == longest)
            raise TooLarge(
                f"{field}: text {where} has {longest} characters, this server takes {limits.max_characters}.", field
            )
        return texts

    def _check_dimensions(self, dimensions: int | None) -> None:
        allowed = self._model.dimensions
        if dimensions is not None and dimensions not in allowed:
            raise Invalid(
                f"dimensions: {dimensions} is none this model was trained for; it has: {', '.join(map(str, allowed))}.",
                "dimensions",
            )

    def _check_embed(self, request: schemas.EmbedRequest) -> None:
        self._check_dimensions(request.dimensions)
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


def _cut(vectors: Vectors, dimensions: int | None) -> Vectors:
    return vectors if dimensions is None else cut(vectors, dimensions)


def _base64(vectors: Vectors) -> list[str]:
    return [base64.b64encode(row).decode() for row in vectors.astype(np.dtype("<f4"), order="C", copy=False)]


async def _written(write: Callable[[], bytes], rows: int) -> bytes:
    if rows <= _LONG_ROWS:
        return write()
    return await asyncio.get_running_loop().run_in_executor(None, write)


def _hit(hit: Hit) -> schemas.SearchHit:
    document = hit.document
    return schemas.SearchHit(
        document.id,
        hit.score,
        document.text,
        msgspec.UNSET if document.title is None else document.title,
        document.metadata or msgspec.UNSET,
    )


def _usage(account: Encoded | Answered) -> schemas.Usage:
    return schemas.Usage(account.tokens, account.tokens)


def _truncated(account: Encoded | Answered) -> Headers:
    return ((b"x-embedship-truncated", b"%d" % account.truncated),)
