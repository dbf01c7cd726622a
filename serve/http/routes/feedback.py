"""POST /feedback: which documents were right."""

from __future__ import annotations

from embedship.serve import schemas
from embedship.serve.errors import ApiDialect, IndexUnavailable, NoIndex, UnknownRequestId
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.service.service import ModelService

# A judgement is short: a query, a hundred right ids and a thousand answered ones.
_BYTES = 1024 * 1024


def routes(service: ModelService) -> tuple[Route, ...]:
    async def feedback(request: schemas.FeedbackRequest, call: RequestInfo) -> Response:
        if request.query is not None:
            common.validate_texts(request.query, "query", service.settings)
        judged = await service.judge.feedback(request)
        recall = judged.found / judged.expected
        return Response(common.encode(schemas.FeedbackReply(judged.found, judged.expected, recall)))

    return (
        Route(
            "POST", "/feedback", "Which documents were right", feedback, schemas.FeedbackRequest,
            schemas.FeedbackReply, ApiDialect.FLAT, (*common.COMMON, NoIndex, IndexUnavailable, UnknownRequestId),
            body_bytes=_BYTES,
        ),
    )  # fmt: skip
