"""POST /feedback: which documents were right."""

from __future__ import annotations

from embedship.serve import schemas
from embedship.serve.errors import Family, IndexAway, NoIndex, UnknownAnswer
from embedship.serve.http.messages import Call, Reply, Route
from embedship.serve.http.routes import common
from embedship.serve.service.service import Service

# A judgement is short: a query, a hundred right ids and a thousand answered ones.
_BYTES = 1024 * 1024


def routes(service: Service) -> tuple[Route, ...]:
    async def feedback(request: schemas.FeedbackRequest, call: Call) -> Reply:
        if request.query is not None:
            common.checked(request.query, "query", service.settings)
        judged = await service.judge.feedback(request)
        recall = judged.found / judged.expected
        return Reply(common.encode(schemas.FeedbackReply(judged.found, judged.expected, recall)))

    return (
        Route(
            "POST", "/feedback", "Which documents were right", feedback, schemas.FeedbackRequest,
            schemas.FeedbackReply, Family.FLAT, (*common.COMMON, NoIndex, IndexAway, UnknownAnswer), body_bytes=_BYTES,
        ),
    )  # fmt: skip
