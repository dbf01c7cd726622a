"""POST /rerank as text-embeddings-inference and Infinity take it; /v1/rerank and /v2/rerank as Cohere does.

Jina's and vLLM's clients speak /v1/rerank, too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from embedship.serve.errors import ApiDialect, Invalid, NoReranker, TooLong
from embedship.serve.http.messages import Headers, RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.http.routes.cohere import CohereVersion
from embedship.serve.schemas import Strict, Usage
from embedship.serve.service.reranker import PairScores, argsort_descending
from embedship.serve.service.service import ModelService
from embedship.serve.telemetry.request_context import Priority

Top = Annotated[int, Meta(ge=1, description="Give the best so many; default: all.")]


class Passage(msgspec.Struct, frozen=True):
    """A document as an object: its text is read, and nothing else of it."""

    text: str


class RerankRequest(Strict, frozen=True):
    """`texts` and the options that end with it are text-embeddings-inference's, `documents` and its own Infinity's.

    Scores are between 0 and 1, unless `raw_scores` asks for the logits that the model gives.
    """

    query: str
    texts: list[str] | None = None
    documents: list[str] | None = None
    raw_scores: bool = False
    return_text: bool | None = None
    truncate: bool | None = None  # null and true cut what is too long, false refuses it
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    return_documents: bool | None = None
    top_n: Top | None = None
    model: str | None = None


class Rank(msgspec.Struct, frozen=True):
    """One text as text-embeddings-inference gives it: its place in the request, and its score."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class InfinityRank(msgspec.Struct, frozen=True):
    relevance_score: float
    index: int
    document: str | None


class InfinityRanks(msgspec.Struct, frozen=True):
    object: Literal["rerank"]
    results: list[InfinityRank]
    model: str
    usage: Usage
    id: str
    created: int


class CohereRerankRequest(Strict, frozen=True):
    """Cohere's and Jina's. `priority` above 0 puts the request into the bulk lane."""

    query: str
    documents: list[str | Passage]
    model: str | None = None
    top_n: Top | None = None
    return_documents: bool = False
    max_tokens_per_doc: Annotated[int, Meta(ge=1)] | None = None
    priority: Annotated[int, Meta(ge=0, le=999)] | None = None


class CohereRank(msgspec.Struct, frozen=True):
    index: int
    relevance_score: float
    document: Passage | UnsetType = UNSET


class CohereRerankUnits(msgspec.Struct, frozen=True):
    search_units: int


class CohereRerankMeta(msgspec.Struct, frozen=True):
    """`warnings` name the documents that were cut."""

    api_version: CohereVersion
    billed_units: CohereRerankUnits
    warnings: list[str]


class CohereRanks(msgspec.Struct, frozen=True):
    """Best first. `usage` is what Jina's clients read."""

    id: str
    model: str
    results: list[CohereRank]
    meta: CohereRerankMeta
    usage: Usage


def routes(service: ModelService) -> tuple[Route, ...]:
    rerank = RerankRoutes(service)
    errors = (*common.COMMON, TooLong, NoReranker)
    return (
        Route(
            "POST", "/rerank", "Texts by how well they answer, as text-embeddings-inference and Infinity give them",
            rerank.both, RerankRequest, list[Rank] | InfinityRanks, ApiDialect.FLAT, errors,
        ),
        *(
            Route("POST", f"/v{version}/rerank", "Documents by how well they answer, as Cohere gives them",
                  CohereRerank(rerank, str(version)).rank, CohereRerankRequest, CohereRanks, ApiDialect.COHERE, errors)
            for version in (1, 2)
        ),
    )  # fmt: skip


class _RerankCall(NamedTuple):
    query: str
    documents: list[str]
    field: str  # the name that the documents have in this dialect
    truncate: bool = True
    raw: bool = False
    top: int | None = None


@dataclass(frozen=True, slots=True)
class RankedTexts:
    """(place in the request, score) of the best, best first."""

    ranks: list[tuple[int, float]]
    scored: PairScores
    headers: Headers

    @property
    def usage(self) -> Usage:
        return common.usage(self.scored.encoded)


class RerankRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def both(self, request: RerankRequest, call: RequestInfo) -> Response:
        if request.texts is not None and request.documents is None:
            return await self._tei(request, request.texts, call)
        if request.documents is not None and request.texts is None:
            return await self._infinity(request, request.documents, call)
        raise Invalid("texts: give either `texts`, or `documents`.", "texts")

    async def ranked(self, ask: _RerankCall, lane: Priority | None) -> RankedTexts:
        limits, reranker = self._service.settings, self._service.pipeline.reranker
        common.validate_texts(ask.query, "query", limits)
        documents = common.validate_texts(ask.documents, ask.field, limits)
        scored = await reranker.score([(ask.query, each) for each in documents], ask.truncate, lane)
        scores = (scored.logits if ask.raw else scored.probabilities).tolist()
        best = argsort_descending(scored.logits)[: ask.top]
        headers = (*common.truncation_headers(scored.encoded), reranker.header)
        return RankedTexts([(place, scores[place]) for place in best], scored, headers)

    async def _tei(self, request: RerankRequest, documents: list[str], call: RequestInfo) -> Response:
        self._refuse(request, "texts", ("return_documents", "top_n"))
        common.check_direction(request.truncation_direction)
        ask = _RerankCall(request.query, documents, "texts", request.truncate is not False, request.raw_scores)
        found = await self.ranked(ask, call.lane)
        said = [Rank(place, score, documents[place] if request.return_text else UNSET) for place, score in found.ranks]
        return await self.reply(said, found)

    async def _infinity(self, request: RerankRequest, documents: list[str], call: RequestInfo) -> Response:
        self._refuse(request, "documents", ("return_text", "truncate", "truncation_direction"))
        ask = _RerankCall(request.query, documents, "documents", raw=request.raw_scores, top=request.top_n)
        found = await self.ranked(ask, call.lane)
        said = [
            InfinityRank(score, place, documents[place] if request.return_documents else None)
            for place, score in found.ranks
        ]
        answer = InfinityRanks("rerank", said, self.name, found.usage, f"infinity-{uuid.uuid4()}", int(time.time()))
        return await self.reply(answer, found)

    @property
    def name(self) -> str:
        return self._service.pipeline.reranker.bundle.manifest.source.name

    @property
    def most_tokens(self) -> int:
        return self._service.pipeline.reranker.bundle.manifest.pipeline.max_tokens

    def _refuse(self, request: RerankRequest, with_what: str, fields: Sequence[str]) -> None:
        """An option of the other dialect would be silently ignored."""
        for field in fields:
            if getattr(request, field) is not None:
                raise Invalid(f"{field}: it goes with the other dialect, and not with `{with_what}`.", field)

    async def reply(self, answer: Any, found: RankedTexts) -> Response:
        return Response(await common.serialise(lambda: common.encode(answer), len(found.ranks)), headers=found.headers)


class CohereRerank:
    def __init__(self, rerank: RerankRoutes, version: str) -> None:
        self._rerank = rerank
        self._version = version

    async def rank(self, request: CohereRerankRequest, call: RequestInfo) -> Response:
        documents = [each if isinstance(each, str) else each.text for each in request.documents]
        ask = _RerankCall(request.query, documents, "documents", top=request.top_n)
        if request.max_tokens_per_doc and request.max_tokens_per_doc < self._rerank.most_tokens:
            raise Invalid(
                f"max_tokens_per_doc: the model cuts a pair to {self._rerank.most_tokens} tokens, and not to fewer; "
                "leave it out.",
                "max_tokens_per_doc",
            )
        found = await self._rerank.ranked(ask, call.lane or (Priority.BULK if request.priority else None))
        said = [
            CohereRank(place, score, Passage(documents[place]) if request.return_documents else UNSET)
            for place, score in found.ranks
        ]
        answer = CohereRanks(str(uuid.uuid4()), self._rerank.name, said, self._meta(found.scored), found.usage)
        return await self._rerank.reply(answer, found)

    def _meta(self, scored: PairScores) -> CohereRerankMeta:
        warnings = [
            f"Document {place} and the query were longer than the model reads: {lost} tokens were cut."
            for place, lost in enumerate(scored.encoded.cut)
            if lost
        ]
        return CohereRerankMeta(
            CohereVersion(self._version), CohereRerankUnits(ceil(len(scored.logits) / 100)), warnings
        )
