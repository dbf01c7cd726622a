"""POST /feedback: tells the monitor which documents were relevant for a search."""

from __future__ import annotations

from embedship.serve import schemas
from embedship.serve.errors import ApiDialect, IndexUnavailable, NoIndex, UnknownRequestId
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.service.service import ModelService

# Feedback is short: a query, at most 100 relevant ids and 1,000 hits.
_BYTES = 1024 * 1024


def routes(service: ModelService) -> tuple[Route, ...]:
    async def feedback(request: schemas.FeedbackRequest, call: RequestInfo) -> Response:
        if request.query is not None:
            common.validate_texts(request.query, "query", service.settings)
        score = await service.feedback.feedback(request)
        recall = score.found / score.expected
        return Response(common.encode(schemas.FeedbackReply(score.found, score.expected, recall)))

    return (
        Route(
            "POST", "/feedback", "Report which documents were relevant", feedback, schemas.FeedbackRequest,
            schemas.FeedbackReply, ApiDialect.FLAT, (*common.COMMON, NoIndex, IndexUnavailable, UnknownRequestId),
            body_bytes=_BYTES,
        ),
    )  # fmt: skip
