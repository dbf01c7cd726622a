"""Routes for clients of vLLM's score API: POST /score and /v1/score. They return the scores of text pairs, unsorted."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embedship.serve.errors import ApiDialect, Invalid, NoReranker, TooLong
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.schemas import Strict, Usage
from embedship.serve.service.service import ModelService
from embedship.serve.telemetry.request_context import Priority


class ScoreRequest(Strict, frozen=True):
    """Each text of `text_1` is paired with the text at its position in `text_2`; a single `text_1` is paired with all.

    Scores are between 0 and 1. If `use_activation` is false, they are the logits of the model. If `priority` is above
    0, the request has the priority `bulk`.
    """

    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None
    use_activation: bool | None = None
    activation: bool | None = None  # an older name of use_activation
    softmax: bool | None = None  # the oldest name
    truncate_prompt_tokens: Literal[-1] | None = None  # -1: the model's maximum length, which is always used
    priority: Annotated[int, Meta(ge=0, le=999)] | None = None


class Score(msgspec.Struct, frozen=True):
    index: int
    object: Literal["score"]
    score: float


class Scores(msgspec.Struct, frozen=True):
    """The scores of the pairs, in the order of the request."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: Usage


def routes(service: ModelService) -> tuple[Route, ...]:
    score = Route(
        "POST", "/score", "Scores of pairs of texts, in vLLM's format", ScoreRoutes(service).score, ScoreRequest,
        Scores, ApiDialect.OPENAI, (*common.COMMON, TooLong, NoReranker),
    )  # fmt: skip
    return (score, replace(score, path="/v1/score"))


class ScoreRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def score(self, request: ScoreRequest, call: RequestInfo) -> Response:
        reranker = self._service.pipeline.reranker
        lane = call.lane or (Priority.BULK if request.priority else None)
        scored = await reranker.score(self._pairs(request), lane=lane)
        raw = False in (request.use_activation, request.activation, request.softmax)
        scores = (scored.logits if raw else scored.probabilities).tolist()
        data = [Score(place, "score", score) for place, score in enumerate(scores)]
        name = reranker.bundle.manifest.source.name
        usage = common.usage(scored.encoded)
        body = Scores(f"score-{uuid.uuid4()}", "list", int(time.time()), name, data, usage)
        headers = (*common.truncation_headers(scored.encoded), reranker.header)
        return Response(await common.serialise(lambda: common.encode(body), len(data)), headers=headers)

    def _pairs(self, request: ScoreRequest) -> list[tuple[str, str]]:
        limits = self._service.settings
        first = common.validate_texts(request.text_1, "text_1", limits)
        second = common.validate_texts(request.text_2, "text_2", limits)
        if len(first) == 1:
            first = first * len(second)
        if len(first) != len(second):
            raise Invalid(
                f"text_2: {len(second)} texts cannot be paired with {len(first)} of text_1: send one text in text_1, "
                "or as many in both.",
                "text_2",
            )
        return list(zip(first, second, strict=True))
