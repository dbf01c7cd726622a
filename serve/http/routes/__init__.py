"""The routes, one module a family: what each does with a request that has the right shape.

A new family is a module here with `routes(service)`, and a line below.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from embedship.serve import openapi
from embedship.serve.errors import Family
from embedship.serve.house import House
from embedship.serve.http import Reply, Route
from embedship.serve.reload import Reload
from embedship.serve.routes import (
    admin,
    cohere,
    documents,
    encode,
    feedback,
    infinity,
    openai,
    page,
    probes,
    rerank,
    search,
    tei,
)
from embedship.serve.service import Service

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
        *probes.routes(house, service),
        *admin.routes(reload),
        *page.routes(),
    ]
    about = Route("GET", "/openapi.json", "This document", lambda *_: answer(), gives=dict[str, Any], open=True)
    document = msgspec.json.encode(openapi.document([*found, about], locked=len(house.keys) > 0))

    async def answer() -> Reply:
        return Reply(document)

    return (*found, about)
