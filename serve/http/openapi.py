"""The OpenAPI 3.1 document, from the routes and the structs they decode and encode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from embedship.serve.errors import (
    ERROR_MAPPINGS,
    ERROR_SCHEMAS,
    DiskFull,
    HeadTooLarge,
    IndexUnavailable,
    Overloaded,
    RequestError,
    SlowBody,
    TooManyConnections,
    Unauthorised,
    WriteFailed,
    WrongMethod,
)
from embedship.serve.http.messages import Route
from embedship.serve.telemetry.request_context import Priority
from embedship.version import __version__

Schema = dict[str, Any]
_KEY, _ADMIN, _WRITE = "api_key", "admin_key", "write_key"
_BEARER = {"type": "http", "scheme": "bearer"}
_REFERENCE = "#/components/schemas/{name}"
_HEADERS: Schema = {
    "X-Embedship-Fingerprint": {
        "description": "The bundle's fingerprint: vectors with different ones must not be compared.",
        "schema": {"type": "string"},
    },
    "X-Request-Id": {
        "description": "The request's own, or else one that was made; POST /feedback judges a search by it.",
        "schema": {"type": "string"},
    },
}
_TIMED_HEADERS: Schema = _HEADERS | {
    "Server-Timing": {
        "description": "Milliseconds in each phase (read, tokenise, queue, inference, search, serialise), and in all.",
        "schema": {"type": "string"},
    },
}
_MODEL_HEADERS: Schema = _TIMED_HEADERS | {
    "X-Embedship-Truncated": {
        "description": "How many texts were longer than the model reads, and cut.",
        "schema": {"type": "integer"},
    },
}
_MODEL_HEADERS["X-Embedship-Cut"] = {
    "description": "Where texts were cut: place=tokens lost, with commas between; the first 100.",
    "schema": {"type": "string"},
}
_BINARY_HEADERS: Schema = _MODEL_HEADERS | {
    "X-Embedship-Dtype": {"description": "What the rows are made of.", "schema": {"type": "string"}},
    "X-Embedship-Shape": {"description": "Rows and components, as in 32,384.", "schema": {"type": "string"}},
    "X-Embedship-Tokens": {"description": "Tokens that were computed.", "schema": {"type": "integer"}},
}
_LANE: Schema = {
    "name": "X-Embedship-Lane",
    "in": "header",
    "description": "Who goes first; default: by size, small requests are interactive.",
    "schema": {"type": "string", "enum": list(Priority)},
}
_REQUEST_ID: Schema = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "1 to 128 letters, digits and ._~:/+=@-, beginning with a letter or digit; what is none is ignored.",
    "schema": {"type": "string"},
}

# Class -> its name in the document, where they differ: clients that were generated from the document keep their names.
_COMPONENT_NAMES = {
    "BaselineChange": "Change",
    "DiagnosisCause": "Cause",
    "DimensionShift": "Dimension",
    "DriftEvidence": "Evidence",
    "DriftRule": "Rule",
    "DriftedQuery": "Drifted",
    "FailedProbe": "Failed",
    "FailureCounts": "Failures",
    "JudgedQuery": "Pair",
    "MonitorSignals": "Signals",
    "MonitorStatus": "Status",
    "ObserverReport": "Report",
    "QueryTopic": "Topic",
    "ReloadResult": "Reloaded",
    "SearchEffort": "Effort",
    "SearchLatency": "Latency",
    "SearchMode": "Mode",
    "SignalState": "State",
    "TeiPoolingInfo": "TeiPooling",
    "VectorCode": "Code",
}

# What any request may be answered, on whichever path; and what one may be whose body is waited for.
_ANY: tuple[type[RequestError], ...] = (WrongMethod, HeadTooLarge, TooManyConnections)
_WITH_BODY: tuple[type[RequestError], ...] = (SlowBody,)
_RETRY_AFTER: Schema = {
    "Retry-After": {
        "description": "Whole seconds to wait before the request is sent again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_TOLD: dict[type[RequestError], Schema] = {
    Overloaded: _RETRY_AFTER,
    TooManyConnections: _RETRY_AFTER,
    DiskFull: _RETRY_AFTER,
    WriteFailed: _RETRY_AFTER,
    IndexUnavailable: _RETRY_AFTER,
    WrongMethod: {
        "Allow": {
            "description": "The methods that the path takes, with commas between them.",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    Unauthorised: {
        "WWW-Authenticate": {"description": "Bearer.", "required": True, "schema": {"type": "string"}},
    },
}


def document(routes: Sequence[Route], locked: bool = False) -> Schema:
    """`locked`: requests must carry an API key."""
    routes = [route for route in routes if route.part_of is None]
    types = _types(routes)
    schemas, named = _public(msgspec.json.schema_components(types, ref_template=_REFERENCE))
    known = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    components: Schema = {"schemas": named}
    components["securitySchemes"] = {_ADMIN: _BEARER, _WRITE: _BEARER, **({_KEY: _BEARER} if locked else {})}
    for route in routes:
        if key := _key(route, locked):
            paths[route.path][route.method.lower()]["security"] = [{key: []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedship", "version": __version__},
        "paths": paths,
        "components": components,
    }


def _public(schema: Any) -> Any:
    """The schema, with the document's names of components in place of the names of classes."""
    if isinstance(schema, list | tuple):
        return [_public(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    renamed: Schema = {_COMPONENT_NAMES.get(key, key): _public(value) for key, value in schema.items()}
    if isinstance(title := renamed.get("title"), str):
        renamed["title"] = _COMPONENT_NAMES.get(title, title)
    if isinstance(reference := renamed.get("$ref"), str):
        prefix, _, name = reference.rpartition("/")
        renamed["$ref"] = f"{prefix}/{_COMPONENT_NAMES.get(name, name)}"
    return renamed


def _key(route: Route, locked: bool) -> str | None:
    if route.admin or route.writes:
        return _ADMIN if route.admin else _WRITE
    return _KEY if locked and not route.open else None


def _types(routes: Sequence[Route]) -> list[Any]:
    """Each once; by repr, for list[list[float]] is another object wherever it is written."""
    wanted = [kind for route in routes for kind in (route.takes, route.gives) if kind is not None]
    return list({repr(kind): kind for kind in [*wanted, *ERROR_SCHEMAS.values()]}.values())


def _operation(route: Route, known: dict[str, Any]) -> Schema:
    name = re.sub(r"\W+", "_", route.path.strip("/")) or "root"
    operation: Schema = {
        "operationId": f"{route.method.lower()}_{name}",
        "summary": route.summary,
        "responses": _responses(route, known),
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _json(known[repr(route.takes)])}
    return operation


def _parameters(route: Route) -> list[Schema]:
    found = [] if route.takes is None else [_LANE]
    found += [_REQUEST_ID] if route.has_deadline else []
    if route.tail:
        name = route.path[len(route.tail) + 1 : -1]
        found.append({"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    return found


def _responses(route: Route, known: dict[str, Any]) -> Schema:
    text = {route.media: {"schema": {"type": "string"}}}
    content = text if route.gives is None else _json(known[repr(route.gives)])
    if route.binary:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    headers = _headers(route)
    responses: Schema = {"200": {"description": "The answer.", "headers": headers, "content": content}}
    shape = known[repr(ERROR_SCHEMAS[route.family])]
    for status, errors in sorted(_by_status(route).items()):
        responses[str(status)] = {
            "description": " ".join(_sentence(error) for error in errors),
            "headers": _HEADERS | {name: each for error in errors for name, each in _TOLD.get(error, {}).items()},
            "content": _json(shape),
        }
    if route.unready:
        responses["503"] = {
            "description": "Not now; or too many connections, and then there is a Retry-After.",
            "headers": _HEADERS | {"Retry-After": _RETRY_AFTER["Retry-After"] | {"required": False}},
            "content": _json({"anyOf": [known[repr(route.gives)], shape]}),
        }
    return responses


def _headers(route: Route) -> Schema:
    if route.binary:
        return _BINARY_HEADERS
    if not route.has_deadline or route.admin:
        return _HEADERS
    return _TIMED_HEADERS if route.takes is None else _MODEL_HEADERS


def _by_status(route: Route) -> dict[int, list[type[RequestError]]]:
    grouped: dict[int, list[type[RequestError]]] = {}
    for error in dict.fromkeys((*route.errors, *_ANY, *(_WITH_BODY if route.has_deadline else ()))):
        grouped.setdefault(ERROR_MAPPINGS[error].status(route.family), []).append(error)
    return grouped


def _sentence(error: type[RequestError]) -> str:
    return (error.__doc__ or error.__name__).strip()


def _json(schema: Any) -> Schema:
    return {"application/json": {"schema": schema}}
