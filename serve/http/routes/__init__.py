"""Routes of the server: each module defines the routes of one API, and handles their decoded requests.

To add an API, add a module with a function `routes(service)`, and list the module in _FAMILIES.

admin.py      POST /admin/reload
cohere.py     POST /v1/embed and /v2/embed, for Cohere's clients
common.py     Validation of texts and dimensions, and encoding of vectors, shared by the routes
dashboard.py  GET /monitor/ui, the web page
documents.py  PUT /documents, GET and DELETE of /documents/{id}
embedding_options.py  Options of other services on OpenAI's and Infinity's routes: honoured or refused
encode.py     POST /v1/encode, embeddings as bytes or JSON
feedback.py   POST /feedback
health.py     GET /, /health, /ready, /info, /monitor and /metrics
infinity.py   POST /embeddings and GET /models, for clients of Infinity
info.py       The response of GET /info
ollama.py     POST /api/embed, for clients of Ollama
openai.py     POST /v1/embeddings and GET /v1/models, for OpenAI's clients
rerank.py     POST /rerank, /v1/rerank and /v2/rerank
score.py      POST /score and /v1/score, for clients of vLLM
search.py     POST /search
tei.py        POST /embed, /, /similarity, /tokenize and /decode, for clients of text-embeddings-inference
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
    ollama,
    openai,
    rerank,
    score,
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

_FAMILIES = (openai, tei, infinity, cohere, ollama, rerank, score, encode, search, documents, feedback)


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
