"""Routes of the server: each module defines the routes of one API, and handles their decoded requests.

To add an API, add a module with a function `routes(service)`, and list the module in _FAMILIES.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from embedship.serve.errors import ApiDialect
from embedship.serve.http import openapi
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import (
    admin,
    cohere,
    dashboard,
    documents,
    encode,
    feedback,
    health,
    infinity,
    openai,
    rerank,
    search,
    tei,
)
from embedship.serve.service.reload import Reloader
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState

# Error dialect of paths that do not exist, by the first part of the path; ApiDialect.FLAT for all others.
UNKNOWN_PATH_DIALECTS: Mapping[str, ApiDialect] = MappingProxyType(
    {
        "/v1": ApiDialect.OPENAI,
        "/v2": ApiDialect.COHERE,
        "/embeddings": ApiDialect.INFINITY,
        "/models": ApiDialect.INFINITY,
    }
)

_FAMILIES = (openai, tei, infinity, cohere, rerank, encode, search, documents, feedback)


def routes(state: ServerState, service: ModelService, reload: Reloader) -> tuple[Route, ...]:
    """Return every route, including the one of the OpenAPI document that describes them."""
    documented = [
        *(route for family in _FAMILIES for route in family.routes(service)),
        *health.routes(state, service),
        *admin.routes(reload),
        *dashboard.routes(),
    ]

    async def respond(_: None, call: RequestInfo) -> Response:
        return Response(document)

    schema = Route("GET", "/openapi.json", "The OpenAPI document", respond, response_type=dict[str, Any], public=True)
    document = msgspec.json.encode(openapi.document([*documented, schema], locked=len(state.keys) > 0))
    return (*documented, schema)
