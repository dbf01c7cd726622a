"""OpenAPI 3.1 document, generated from the routes and from the structs that they decode and encode."""

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
        "description": "Fingerprint of the model. Vectors with different fingerprints cannot be compared.",
        "schema": {"type": "string"},
    },
    "X-Request-Id": {
        "description": "The id that the client sent, or a generated one. POST /feedback uses it to refer to a search.",
        "schema": {"type": "string"},
    },
}
_TIMED_HEADERS: Schema = _HEADERS | {
    "Server-Timing": {
        "description": "Milliseconds per phase (read, tokenise, queue, inference, search, serialise), and in total.",
        "schema": {"type": "string"},
    },
}
_MODEL_HEADERS: Schema = _TIMED_HEADERS | {
    "X-Embedship-Truncated": {
        "description": "Number of texts that were truncated because they were too long for the model.",
        "schema": {"type": "integer"},
    },
}
_MODEL_HEADERS["X-Embedship-Cut"] = {
    "description": "Truncated texts as index=removed tokens, separated by commas; at most the first 100.",
    "schema": {"type": "string"},
}
_BINARY_HEADERS: Schema = _MODEL_HEADERS | {
    "X-Embedship-Dtype": {"description": "Data type of the rows.", "schema": {"type": "string"}},
    "X-Embedship-Shape": {
        "description": "Number of rows and number of components, for example 32,384.",
        "schema": {"type": "string"},
    },
    "X-Embedship-Tokens": {"description": "Number of computed tokens.", "schema": {"type": "integer"}},
}
_LANE: Schema = {
    "name": "X-Embedship-Lane",
    "in": "header",
    "description": "Priority of the request. Default: by size; small requests are interactive.",
    "schema": {"type": "string", "enum": list(Priority)},
}
_REQUEST_ID: Schema = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "1 to 128 letters, digits and ._~:/+=@-, starting with a letter or digit. Other values are ignored.",
    "schema": {"type": "string"},
}

# Classes that have another name in the document. It is the older name, so that generated clients stay valid.
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

# Errors that every route can return, and errors that every route with a request body can return.
_ANY: tuple[type[RequestError], ...] = (WrongMethod, HeadTooLarge, TooManyConnections)
_WITH_BODY: tuple[type[RequestError], ...] = (SlowBody,)
_RETRY_AFTER: Schema = {
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
_ERROR_HEADERS: dict[type[RequestError], Schema] = {
    Overloaded: _RETRY_AFTER,
    TooManyConnections: _RETRY_AFTER,
    DiskFull: _RETRY_AFTER,
    WriteFailed: _RETRY_AFTER,
    IndexUnavailable: _RETRY_AFTER,
    WrongMethod: {
        "Allow": {
            "description": "The methods that the path accepts, separated by commas.",
            "required": True,
            "schema": {"type": "string"},
        }
    },
    Unauthorised: {
        "WWW-Authenticate": {
            "description": "The authentication scheme: Bearer.",
            "required": True,
            "schema": {"type": "string"},
        },
    },
}


def document(routes: Sequence[Route], locked: bool = False) -> Schema:
    """Return the OpenAPI document of the routes; `locked` means that the server requires an API key."""
    routes = [route for route in routes if route.part_of is None]
    types = _types(routes)
    schemas, named = _rename_components(msgspec.json.schema_components(types, ref_template=_REFERENCE))
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


def _rename_components(schema: Any) -> Any:
    """Return the schema with names of classes replaced by the names of components in _COMPONENT_NAMES."""
    if isinstance(schema, list | tuple):
        return [_rename_components(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    renamed: Schema = {
        _COMPONENT_NAMES.get(str(key), str(key)): _rename_components(value) for key, value in schema.items()
    }
    if isinstance(title := renamed.get("title"), str):
        renamed["title"] = _COMPONENT_NAMES.get(title, title)
    if isinstance(reference := renamed.get("$ref"), str):
        prefix, _, name = reference.rpartition("/")
        renamed["$ref"] = f"{prefix}/{_COMPONENT_NAMES.get(name, name)}"
    return renamed


def _key(route: Route, locked: bool) -> str | None:
    if route.admin or route.writes:
        return _ADMIN if route.admin else _WRITE
    return _KEY if locked and not route.public else None


def _types(routes: Sequence[Route]) -> list[Any]:
    """Return each type once. Types are compared by repr, because each list[list[float]] is another object."""
    wanted = [kind for route in routes for kind in (route.request_type, route.response_type) if kind is not None]
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
    if route.request_type is not None:
        operation["requestBody"] = {"required": True, "content": _json(known[repr(route.request_type)])}
    return operation


def _parameters(route: Route) -> list[Schema]:
    parameters = [] if route.request_type is None else [_LANE]
    parameters += [_REQUEST_ID] if route.has_deadline else []
    if route.prefix:
        name = route.path[len(route.prefix) + 1 : -1]
        parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    return parameters


def _responses(route: Route, known: dict[str, Any]) -> Schema:
    text = {route.media: {"schema": {"type": "string"}}}
    content = text if route.response_type is None else _json(known[repr(route.response_type)])
    if route.binary:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    headers = _headers(route)
    responses: Schema = {"200": {"description": "Success.", "headers": headers, "content": content}}
    shape = known[repr(ERROR_SCHEMAS[route.dialect])]
    for status, errors in sorted(_by_status(route).items()):
        responses[str(status)] = {
            "description": " ".join(_sentence(error) for error in errors),
            "headers": _HEADERS
            | {name: each for error in errors for name, each in _ERROR_HEADERS.get(error, {}).items()},
            "content": _json(shape),
        }
    if route.unready:
        responses["503"] = {
            "description": "Not ready or not healthy; or too many connections, with a Retry-After header.",
            "headers": _HEADERS | {"Retry-After": _RETRY_AFTER["Retry-After"] | {"required": False}},
            "content": _json({"anyOf": [known[repr(route.response_type)], shape]}),
        }
    return responses


def _headers(route: Route) -> Schema:
    if route.binary:
        return _BINARY_HEADERS
    if not route.has_deadline or route.admin:
        return _HEADERS
    return _TIMED_HEADERS if route.request_type is None else _MODEL_HEADERS


def _by_status(route: Route) -> dict[int, list[type[RequestError]]]:
    grouped: dict[int, list[type[RequestError]]] = {}
    for error in dict.fromkeys((*route.errors, *_ANY, *(_WITH_BODY if route.has_deadline else ()))):
        grouped.setdefault(ERROR_MAPPINGS[error].status(route.dialect), []).append(error)
    return grouped


def _sentence(error: type[RequestError]) -> str:
    return (error.__doc__ or error.__name__).strip()


def _json(schema: Any) -> Schema:
    return {"application/json": {"schema": schema}}
