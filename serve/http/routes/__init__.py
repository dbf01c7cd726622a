"""The routes, one module a family: what each does with a request that has the right shape.

A new family is a module here with `routes(service)`, and a line below.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from embedship.serve.errors import Family
from embedship.serve.http import openapi
from embedship.serve.http.messages import Reply, Route
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
from embedship.serve.service.reload import Reload
from embedship.serve.service.service import Service
from embedship.serve.service.state import House

# Whose shape an error takes at a path that does not exist, by the path's first part; elsewhere Family.FLAT.
LOST: Mapping[str, Family] = MappingProxyType(
    {
        "/v1": Family.OPENAI,
        "/v2": Family.COHERE,
        "/embeddings": Family.INFINITY,
        "/models": Family.INFINITY,
    }
)

_FAMILIES = (openai, tei, infinity, cohere, rerank, encode, search, documents, feedback)


def routes(house: House, service: Service, reload: Reload) -> tuple[Route, ...]:
    """Every route, and the document that describes them."""
    found = [
        *(route for family in _FAMILIES for route in family.routes(service)),
        *health.routes(house, service),
        *admin.routes(reload),
        *dashboard.routes(),
    ]
    about = Route("GET", "/openapi.json", "This document", lambda *_: answer(), gives=dict[str, Any], open=True)
    document = msgspec.json.encode(openapi.document([*found, about], locked=len(house.keys) > 0))

    async def answer() -> Reply:
        return Reply(document)

    return (*found, about)
