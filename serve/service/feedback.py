"""POST /feedback: finds what was answered and what was right, and has the monitor count it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedship.monitor.recall.feedback import FeedbackRecall, KeptAnswer
from embedship.monitor.recall.score import RecallScore
from embedship.serve.errors import Invalid, UnknownRequestId
from embedship.serve.schemas import FeedbackRequest
from embedship.serve.service.query_pipeline import QueryPipeline
from embedship.serve.telemetry.request_context import RequestPhase, end_phase


class FeedbackService:
    """Used from the event loop. Raises RequestErrors only."""

    def __init__(self, pipeline: QueryPipeline, feedback: FeedbackRecall | None) -> None:
        self._pipeline = pipeline
        self._feedback = feedback

    async def feedback(self, request: FeedbackRequest) -> RecallScore:
        """Count one judgement, once: ids that the index does not hold are refused, or a typing error would page."""
        shelf = self._pipeline.shelf
        assert self._feedback is not None, "whoever has an index takes feedback"
        _refuse_ambiguity(request)
        known = await shelf.resolve_ids_async([*request.relevant, *(request.hits or ())])
        relevant = _rows(request.relevant, known, "relevant")
        answer = await self._answer(self._feedback, request, known)
        end_phase(RequestPhase.SEARCH)
        text = answer.text if self._feedback.keeps_texts else None
        return self._feedback.judge(answer.rows, dict(zip(request.relevant, relevant, strict=True)), text)

    async def _answer(self, feedback: FeedbackRecall, request: FeedbackRequest, known: Mapping[str, int]) -> KeptAnswer:
        if request.query is not None:
            if request.hits is not None:
                return KeptAnswer(_rows(request.hits, known, "hits"), request.query)
            return KeptAnswer(await self._pipeline.search_probe(request.query), request.query)
        answer = feedback.answers.take(request.request_id or "", request.result)
        if answer is None:
            raise UnknownRequestId(
                f"request_id: result {request.result} of {request.request_id!r} is not kept, or was judged before, or "
                "its id came with another answer, too: send `query` and `hits` instead, or raise --keep-answers.",
                "request_id",
            )
        return answer


def _refuse_ambiguity(request: FeedbackRequest) -> None:
    if (request.request_id is None) == (request.query is None):
        raise Invalid("request_id: give either `request_id` or `query`, and not both.", "request_id")
    if request.hits is not None and request.query is None:
        raise Invalid("hits: they belong to a `query`; an answer with a request_id is known already.", "hits")


def _rows(ids: Sequence[str], known: Mapping[str, int], field: str) -> list[int]:
    for place, each in enumerate(ids):
        if each not in known:
            raise Invalid(f"{field}[{place}]: the index holds no document {each!r}.", field)
    return [known[each] for each in ids]
