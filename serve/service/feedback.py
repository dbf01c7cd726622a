"""Feedback service: resolves the search and the relevant documents of POST /feedback, and counts their recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedship.monitor.recall.feedback import FeedbackRecall, KeptAnswer
from embedship.monitor.recall.score import RecallScore
from embedship.serve.errors import Invalid, UnknownRequestId
from embedship.serve.schemas import FeedbackRequest
from embedship.serve.service.query_pipeline import QueryPipeline
from embedship.serve.telemetry.request_context import RequestPhase, end_phase


class FeedbackService:
    """Scores judgements of searches. Use it from the event loop. Raises RequestErrors only."""

    def __init__(self, pipeline: QueryPipeline, feedback: FeedbackRecall | None) -> None:
        self._pipeline = pipeline
        self._feedback = feedback

    async def feedback(self, request: FeedbackRequest) -> RecallScore:
        """Score one judgement and pass it to the monitor. Each search can be judged once.

        Ids that are not in the index are rejected, because a typing error would otherwise look like lost recall.
        """
        collection = self._pipeline.collection
        assert self._feedback is not None, "a server with an index has feedback"
        _reject_ambiguity(request)
        rows = await collection.resolve_ids([*request.relevant, *(request.hits or ())])
        relevant = _resolve(request.relevant, rows, "relevant")
        search = await self._judged_search(self._feedback, request, rows)
        end_phase(RequestPhase.SEARCH)
        text = search.text if self._feedback.keeps_texts else None
        return self._feedback.judge(search.rows, dict(zip(request.relevant, relevant, strict=True)), text)

    async def _judged_search(
        self, feedback: FeedbackRecall, request: FeedbackRequest, rows: Mapping[str, int]
    ) -> KeptAnswer:
        if request.query is not None:
            if request.hits is not None:
                return KeptAnswer(_resolve(request.hits, rows, "hits"), request.query)
            return KeptAnswer(await self._pipeline.search_probe(request.query), request.query)
        result = request.result or 0
        search = feedback.answers.claim(request.request_id or "", result)
        if search is None:
            raise UnknownRequestId(
                f"request_id: result {result} of {request.request_id!r} is not kept, or was judged before, or "
                "several searches had this id: send `query` and `hits` instead, or raise --keep-answers.",
                "request_id",
            )
        return search


def _reject_ambiguity(request: FeedbackRequest) -> None:
    if (request.request_id is None) == (request.query is None):
        raise Invalid("request_id: give either `request_id` or `query`, but not both.", "request_id")
    if request.hits is not None and request.query is None:
        raise Invalid("hits: give `hits` only with `query`; with `request_id` the server knows the hits.", "hits")


def _resolve(ids: Sequence[str], rows: Mapping[str, int], field: str) -> list[int]:
    for place, each in enumerate(ids):
        if each not in rows:
            raise Invalid(f"{field}[{place}]: the index contains no document {each!r}.", field)
    return [rows[each] for each in ids]
