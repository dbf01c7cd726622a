"""Re-ranking routes: POST /rerank for clients of text-embeddings-inference and Infinity, /v1/rerank and /v2/rerank for
those of Cohere. Clients of Jina and vLLM also use /v1/rerank.
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

Top = Annotated[int, Meta(ge=1, description="Return only this many of the best documents. Default: all.")]


class Passage(msgspec.Struct, frozen=True):
    """A document as an object, of which only the text is used."""

    text: str


class RerankRequest(Strict, frozen=True):
    """`texts` selects the format of text-embeddings-inference, `documents` that of Infinity; each has its own options.

    Scores are between 0 and 1; with `raw_scores` they are the logits of the model.
    """

    query: str
    texts: list[str] | None = None
    documents: list[str] | None = None
    raw_scores: bool | None = False
    return_text: bool | None = None
    truncate: bool | None = None  # null and true truncate texts that are too long, false rejects them
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    return_documents: bool | None = None
    top_n: Top | None = None
    model: str | None = None


class Rank(msgspec.Struct, frozen=True):
    """One text in the format of text-embeddings-inference: its index in the request, and its score."""

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
    """Request of Cohere's and Jina's clients. With `priority` above 0 it gets the priority `bulk`."""

    query: str
    documents: list[str | Passage]
    model: str | None = None
    top_n: Top | None = None
    return_documents: bool | None = False
    max_tokens_per_doc: Annotated[int, Meta(ge=1)] | None = None
    priority: Annotated[int, Meta(ge=0, le=999)] | None = None


class CohereRank(msgspec.Struct, frozen=True):
    index: int
    relevance_score: float
    document: Passage | UnsetType = UNSET


class CohereRerankUnits(msgspec.Struct, frozen=True):
    search_units: int


class CohereRerankMeta(msgspec.Struct, frozen=True):
    """`warnings` names the truncated documents."""

    api_version: CohereVersion
    billed_units: CohereRerankUnits
    warnings: list[str]


class CohereRanks(msgspec.Struct, frozen=True):
    """Results, best first. Jina's clients read `usage`."""

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
            "POST", "/rerank", "Rank texts by relevance, in the format of text-embeddings-inference or Infinity",
            rerank.both, RerankRequest, list[Rank] | InfinityRanks, ApiDialect.FLAT, errors,
        ),
        *(
            Route("POST", f"/v{version}/rerank", "Rank documents by relevance, in Cohere's format",
                  CohereRerank(rerank, str(version)).rank, CohereRerankRequest, CohereRanks, ApiDialect.COHERE, errors)
            for version in (1, 2)
        ),
    )  # fmt: skip


class _RerankCall(NamedTuple):
    """A re-ranking request, independent of its dialect."""

    query: str
    documents: list[str]
    field: str  # name of the documents in this dialect, for errors
    truncate: bool = True
    raw: bool = False
    top: int | None = None


@dataclass(frozen=True, slots=True)
class RankedTexts:
    """(index in the request, score) of the best texts, best first; `scored` contains all of them."""

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
        raise Invalid("texts: give either `texts` or `documents`.", "texts")

    async def ranked(self, query: _RerankCall, lane: Priority | None) -> RankedTexts:
        limits, reranker = self._service.settings, self._service.pipeline.reranker
        common.validate_texts(query.query, "query", limits)
        documents = common.validate_texts(query.documents, query.field, limits)
        scored = await reranker.score([(query.query, each) for each in documents], query.truncate, lane)
        scores = (scored.logits if query.raw else scored.probabilities).tolist()
        best = argsort_descending(scored.logits)[: query.top]
        headers = (*common.truncation_headers(scored.encoded), reranker.header)
        return RankedTexts([(place, scores[place]) for place in best], scored, headers)

    async def _tei(self, request: RerankRequest, documents: list[str], call: RequestInfo) -> Response:
        self._refuse(request, "texts", ("return_documents", "top_n"))
        common.check_direction(request.truncation_direction)
        query = _RerankCall(request.query, documents, "texts", request.truncate is not False, bool(request.raw_scores))
        ranked = await self.ranked(query, call.lane)
        ranks = [
            Rank(place, score, documents[place] if request.return_text else UNSET) for place, score in ranked.ranks
        ]
        return await self.reply(ranks, ranked)

    async def _infinity(self, request: RerankRequest, documents: list[str], call: RequestInfo) -> Response:
        self._refuse(request, "documents", ("return_text", "truncate", "truncation_direction"))
        query = _RerankCall(request.query, documents, "documents", raw=bool(request.raw_scores), top=request.top_n)
        ranked = await self.ranked(query, call.lane)
        ranks = [
            InfinityRank(score, place, documents[place] if request.return_documents else None)
            for place, score in ranked.ranks
        ]
        answer = InfinityRanks("rerank", ranks, self.name, ranked.usage, f"infinity-{uuid.uuid4()}", int(time.time()))
        return await self.reply(answer, ranked)

    @property
    def name(self) -> str:
        return self._service.pipeline.reranker.bundle.manifest.source.name

    @property
    def max_tokens(self) -> int:
        return self._service.pipeline.reranker.bundle.manifest.pipeline.max_tokens

    def _refuse(self, request: RerankRequest, documents_field: str, fields: Sequence[str]) -> None:
        """Raise Invalid for an option of the other dialect, which would otherwise be silently ignored."""
        for field in fields:
            if getattr(request, field) is not None:
                raise Invalid(f"{field}: this option cannot be combined with `{documents_field}`; remove it.", field)

    async def reply(self, answer: Any, ranked: RankedTexts) -> Response:
        return Response(
            await common.serialise(lambda: common.encode(answer), len(ranked.ranks)), headers=ranked.headers
        )


class CohereRerank:
    def __init__(self, rerank: RerankRoutes, version: str) -> None:
        self._rerank = rerank
        self._version = version

    async def rank(self, request: CohereRerankRequest, call: RequestInfo) -> Response:
        documents = [each if isinstance(each, str) else each.text for each in request.documents]
        query = _RerankCall(request.query, documents, "documents", top=request.top_n)
        if request.max_tokens_per_doc and request.max_tokens_per_doc < self._rerank.max_tokens:
            raise Invalid(
                f"max_tokens_per_doc: pairs are truncated to {self._rerank.max_tokens} tokens, and a lower limit is "
                "not supported; remove the field.",
                "max_tokens_per_doc",
            )
        ranked = await self._rerank.ranked(query, call.lane or (Priority.BULK if request.priority else None))
        ranks = [
            CohereRank(place, score, Passage(documents[place]) if request.return_documents else UNSET)
            for place, score in ranked.ranks
        ]
        answer = CohereRanks(str(uuid.uuid4()), self._rerank.name, ranks, self._meta(ranked.scored), ranked.usage)
        return await self._rerank.reply(answer, ranked)

    def _meta(self, scored: PairScores) -> CohereRerankMeta:
        warnings = [
            f"Document {place} and the query were too long for the model: {lost} tokens were truncated."
            for place, lost in enumerate(scored.encoded.cut)
            if lost
        ]
        return CohereRerankMeta(
            CohereVersion(self._version), CohereRerankUnits(ceil(len(scored.logits) / 100)), warnings
        )
