"""POST /search: returns the documents that are most similar to a query."""

from __future__ import annotations

import msgspec

from embedship.monitor.assets.recording import RERANKED
from embedship.serve import schemas
from embedship.serve.documents import filters, fulltext
from embedship.serve.errors import ApiDialect, IndexUnavailable, Invalid, NoIndex, NoReranker, TooLarge
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.schemas.search import HITS, TOP
from embedship.serve.search.backend import Hit, RankAndScore, SearchParams
from embedship.serve.search.fusion import SearchMode
from embedship.serve.service.service import ModelService
from embedship.serve.telemetry.request_context import count_separately


def routes(service: ModelService) -> tuple[Route, ...]:
    return (
        Route(
            "POST", "/search", "The documents most similar to a query", SearchRoutes(service).search,
            schemas.SearchRequest, schemas.SearchReply, ApiDialect.FLAT, (*common.COMMON, NoIndex, NoReranker,
                IndexUnavailable),
            separate_label=RERANKED,
        ),
    )  # fmt: skip


class SearchRoutes:
    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def search(self, request: schemas.SearchRequest, call: RequestInfo) -> Response:
        top = (request.rerank.top or TOP) if request.rerank else None
        k, mode = request.k or HITS, request.mode or SearchMode.DENSE
        if top is not None:
            count_separately()
        queries = common.validate_texts(request.query, "query", self._service.settings)
        self._check(len(queries), k)
        if top is not None:
            self._check_rerank(len(queries), k, top)
        if request.effort and mode is SearchMode.KEYWORD:
            raise Invalid("effort: a keyword search has no such parameter; remove the field.", "effort")
        if mode is not SearchMode.DENSE and fulltext.too_many(queries):
            raise TooLarge(
                f"query: these {len(queries)} queries have more than {fulltext.MOST_SEARCHED:,} words in total, the "
                f"maximum per request of mode {mode}: send fewer queries per request.",
                "query",
            )
        if request.filter:
            try:
                filters.demand(request.filter)
            except filters.FilterError as error:
                raise Invalid(f"{error}.", "filter") from None
        params = SearchParams(
            mode, filter=request.filter or None, effort=request.effort, per_document=request.per_document is not False
        )
        pipeline = self._service.pipeline
        outcome = await pipeline.search(queries, k, call.lane, params, top)

        def reply() -> bytes:
            results = [schemas.SearchResult([_hit(hit) for hit in hits]) for hits in outcome.results.hits]
            tokens = outcome.encoded.tokens + outcome.scored
            return common.encode(schemas.SearchReply(results, schemas.Usage(tokens, tokens)))

        headers = common.truncation_headers(outcome.encoded)
        if top is not None:
            headers = (*headers, pipeline.reranker.header)
        return Response(await common.serialise(reply, len(queries)), headers=headers)

    def _check(self, queries: int, k: int) -> None:
        if k > (most := self._service.settings.max_hits):
            raise Invalid(f"k: {k} hits are too many; the maximum is {most}.", "k")
        if queries * k > 10 * most:
            raise TooLarge(
                f"query: {queries} queries with {k} hits each are too many for one request; the maximum is "
                f"{10 * most} hits per request: send fewer queries, or lower k.",
                "query",
            )

    def _check_rerank(self, queries: int, k: int, top: int) -> None:
        limits = self._service.settings
        if top < k:
            raise Invalid(
                f"rerank.top: {k} hits are requested, but only {top} are re-ranked: raise rerank.top, or lower k.",
                "rerank",
            )
        if top > limits.max_hits:
            raise Invalid(f"rerank.top: {top} is too many; the maximum is {limits.max_hits}.", "rerank")
        if queries * top > limits.max_texts:
            raise TooLarge(
                f"rerank: {queries} queries with rerank.top {top} are {queries * top} pairs; the maximum is "
                f"{limits.max_texts} per request.",
                "rerank",
            )


def _hit(hit: Hit) -> schemas.SearchHit:
    document = hit.document
    return schemas.SearchHit(
        document.id,
        hit.score,
        document.text,
        msgspec.UNSET if document.title is None else document.title,
        document.metadata or msgspec.UNSET,
        msgspec.UNSET if document.chunk is None else document.chunk,
        _place(hit.dense),
        _place(hit.keyword),
        _place(hit.retrieved),
    )


def _place(place: RankAndScore | None) -> schemas.Place | msgspec.UnsetType:
    return msgspec.UNSET if place is None else schemas.Place(*place)
