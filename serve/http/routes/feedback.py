"""POST /feedback: which documents were right."""

from __future__ import annotations

from embedship.serve import schemas
from embedship.serve.errors import Family, IndexAway, NoIndex, UnknownAnswer
from embedship.serve.http import Call, Reply, Route
from embedship.serve.routes import texts
from embedship.serve.service import Service

# A judgement is short: a query, a hundred right ids and a thousand answered ones.
_BYTES = 1024 * 1024


def routes(service: Service) -> tuple[Route, ...]:
    async def feedback(request: schemas.FeedbackRequest, call: Call) -> Reply:
        if request.query is not None:
            texts.checked(request.query, "query", service.settings)
        judged = await service.judge.feedback(request)
        recall = judged.found / judged.expected
        return Reply(texts.encode(schemas.FeedbackReply(judged.found, judged.expected, recall)))

    return (
        Route(
            "POST", "/feedback", "Which documents were right", feedback, schemas.FeedbackRequest,
            schemas.FeedbackReply, Family.FLAT, (*texts.COMMON, NoIndex, IndexAway, UnknownAnswer), body_bytes=_BYTES,
        ),
    )  # fmt: skip
