"""The routes, one module a family: what each does with a request that has the right shape.

A new family is a module here with `routes(service)`, and a line below.

    admin.py      What changes a running server
    cohere.py     POST /v2/embed, as Cohere's clients speak it
    common.py     What every family checks of the texts and dimensions it is given, and how it writes vectors
    dashboard.py  GET /monitor/ui
    documents.py  PUT /documents, and GET and DELETE of one
    encode.py     POST /v1/encode
    feedback.py   POST /feedback
    health.py     What orchestrators, scrapers and people ask of a running server
    infinity.py   POST /embeddings and GET /models, as clients of Infinity speak them
    info.py       GET /info
    openai.py     POST /v1/embeddings and GET /v1/models, as OpenAI's clients speak them
    rerank.py     POST /rerank as text-embeddings-inference and Infinity take it
    search.py     POST /search
    tei.py        POST /embed, /, /similarity, /tokenize and /decode, as clients of text-embeddings-inference speak them
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from embedship.serve.errors import ApiDialect
from embedship.serve.http import openapi
from embedship.serve.http.messages import Response, Route
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

# Whose shape an error takes at a path that does not exist, by the path's first part; elsewhere Family.FLAT.
LOST: Mapping[str, ApiDialect] = MappingProxyType(
    {
        "/v1": ApiDialect.OPENAI,
        "/v2": ApiDialect.COHERE,
        "/embeddings": ApiDialect.INFINITY,
        "/models": ApiDialect.INFINITY,
    }
)

_FAMILIES = (openai, tei, infinity, cohere, rerank, encode, search, documents, feedback)


def routes(house: ServerState, service: ModelService, reload: Reloader) -> tuple[Route, ...]:
    """Every route, and the document that describes them."""
    found = [
        *(route for family in _FAMILIES for route in family.routes(service)),
        *health.routes(house, service),
        *admin.routes(reload),
        *dashboard.routes(),
    ]
    about = Route("GET", "/openapi.json", "This document", lambda *_: answer(), gives=dict[str, Any], open=True)
    document = msgspec.json.encode(openapi.document([*found, about], locked=len(house.keys) > 0))

    async def answer() -> Response:
        return Response(document)

    return (*found, about)
