"""ASGI application: finds the route of a request, runs it, turns errors into responses, and records the request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec

from embedship.serve.api_keys import ADMIN, WRITE, ApiKeys
from embedship.serve.browser_guard import BrowserGuard
from embedship.serve.errors import (
    ERROR_MAPPINGS,
    ApiDialect,
    EngineFailed,
    Forbidden,
    Internal,
    RequestError,
    Unauthorised,
    UnknownPath,
    WrongMethod,
    body,
)
from embedship.serve.http import deadline
from embedship.serve.http.messages import (
    DisconnectWatcher,
    Headers,
    Receive,
    RequestInfo,
    Response,
    Route,
    Scope,
    Send,
    decode,
    read_body,
    send_response,
)
from embedship.serve.http.routes import UNKNOWN_PATH_DIALECTS, routes
from embedship.serve.service.reload import Reloader
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState
from embedship.serve.telemetry import logs
from embedship.serve.telemetry.metrics import OTHER
from embedship.serve.telemetry.request_context import RequestContext, RequestPhase, current_request
from embedship.serve.telemetry.tracing import RequestTracer

logger = logging.getLogger(__name__)

_SHUTDOWN = "The server shut down before it answered this request: send the request again, to another server."

RouteFactory = Callable[[ServerState, ModelService, Reloader], tuple[Route, ...]]


class RouteTable:
    """Routes of one service, their JSON decoders, and the headers that every response of this service carries."""

    def __init__(self, state: ServerState, service: ModelService, routes: tuple[Route, ...]) -> None:
        self.service = service
        self.paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            self.paths.setdefault(route.path, {})[route.method] = route
        self._prefixes = tuple({route.prefix: route.path for route in routes if route.prefix}.items())
        self.decoders: dict[Any, msgspec.json.Decoder[Any]] = {
            route.request_type: msgspec.json.Decoder(route.request_type)
            for route in routes
            if route.request_type is not None
        }
        self.labels = {route.path: route.part_of or route.path for route in routes}
        self.separate_labels = {route.path: route.separate_label for route in routes if route.separate_label}
        state.metrics.preregister_routes(dict.fromkeys((*self.labels.values(), *self.separate_labels.values())))
        self.headers: Headers = ((b"x-embedship-fingerprint", service.bundle.fingerprint.encode()),)
        self.closing_headers: Headers = (*self.headers, (b"connection", b"close"))

    def match(self, path: str) -> tuple[str, str]:
        """Return the path of the matching route, and the value of its {parameter} ("" if it has none).

        A slash at the end of a path makes no difference. A path that matches no route is returned unchanged.
        """
        if path in self.paths:
            return path, ""
        for prefix, template in self._prefixes:
            if path.startswith(prefix) and path != prefix:
                return template, path[len(prefix) :]
        bare = path[:-1] if path.endswith("/") and path != "//" else path
        return (bare if bare in self.paths else path), ""

    def dialect(self, method: str, path: str) -> ApiDialect:
        """Return the dialect in which to write an error: the route's, or that of UNKNOWN_PATH_DIALECTS."""
        methods = self.paths.get(path)
        if methods is None:
            return UNKNOWN_PATH_DIALECTS.get(_path_prefix(path), ApiDialect.FLAT)
        return (methods.get(method) or next(iter(methods.values()))).dialect

    def route(self, method: str, path: str) -> Route:
        """Return the route for a method and path. Raises UnknownPath, WrongMethod."""
        methods = self.paths.get(path)
        if methods is None:
            known = ", ".join(
                f"{m} {path}" for path, methods in self.paths.items() for m in methods if self.labels[path] == path
            )
            raise UnknownPath(f"There is no route {path}. The routes are: {known}.")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = ", ".join(methods)
            raise WrongMethod(f"{path} accepts {allowed}, not {method}.", headers={"Allow": allowed})
        return route


class App:
    """ASGI application of one listener. Any ASGI server can run it; tests call it through httpx.ASGITransport."""

    def __init__(
        self, state: ServerState, tracer: RequestTracer | None = None, make_routes: RouteFactory = routes
    ) -> None:
        self._state = state
        self._make_routes = make_routes
        self._metrics = state.metrics
        self._logs_access = state.settings.access_log
        self._tracer = tracer
        self._drain = state.drain
        self._browser_guard = BrowserGuard.parse(state.settings.allowed_hosts)
        self._max_body_bytes = state.settings.max_body_bytes
        self._timeout_seconds = state.settings.request_seconds
        self.reload = Reloader(state)
        self._table = self._build_route_table(state.service)
        self._prepared: dict[ModelService, RouteTable] = {}  # for services that are about to replace the current one
        state.add_preparation(self._prepare)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, then record it in metrics, access log and traces."""
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is supported, not {scope['type']}")
        table, context = self._current_route_table(), RequestContext(scope["headers"])
        path, parameter = table.match(scope["path"])
        table.service.request_started()
        token = current_request.set(context)
        try:
            response = await self._respond(table, context, scope, receive, path, parameter)
            headers = table.closing_headers if self._drain.draining else table.headers
            await send_response(send, response, (*headers, *context.headers()))
            self._record_request(table, context, scope, path, response.status)
        finally:
            current_request.reset(token)
            table.service.request_finished()

    def _current_route_table(self) -> RouteTable:
        """Return the route table of the current service. A request keeps its table, even if a reload follows."""
        if self._table.service is not self._state.service:
            self._table = self._prepared.pop(self._state.service)
        return self._table

    def _prepare(self, service: ModelService) -> None:
        """Build the route table of a new service before it replaces the current one.

        Called outside the event loop, because routes, decoders and OpenAPI take tens of milliseconds.
        """
        current = self._state.service
        pending = {known: table for known, table in self._prepared.items() if known is current}
        self._prepared = {**pending, service: self._build_route_table(service)}

    def _build_route_table(self, service: ModelService) -> RouteTable:
        return RouteTable(self._state, service, self._make_routes(self._state, service, self.reload))

    def refuse(self, error: RequestError, path: str) -> Response:
        """Return the response to a request that the connection rejects before the app is called."""
        table, context = self._current_route_table(), RequestContext(())
        response = self._error_response(error, table.dialect("", path), context)
        return response._replace(headers=(*table.closing_headers, *context.headers(), *response.headers))

    def _record_request(self, table: RouteTable, context: RequestContext, scope: Scope, path: str, status: int) -> None:
        """Record a request after the last byte of its response has been sent."""
        label, seconds = table.labels.get(path, OTHER), time.perf_counter() - context.began
        self._metrics.record_request(
            table.separate_labels[path] if context.counted_separately else label, status, seconds
        )
        if self._logs_access:
            logs.log_access(context, scope["method"], label, status, seconds)
        if self._tracer and scope["method"] == "POST":  # GET requests are health checks and scrapes
            self._tracer.record_request(context, scope, label, status, seconds)

    async def _respond(
        self, table: RouteTable, context: RequestContext, scope: Scope, receive: Receive, path: str, parameter: str
    ) -> Response:
        """Find the route, check the key and run the route. Every error becomes a response."""
        method = scope["method"]
        try:
            route = table.route(method, path)
            if not route.public:
                self._authorise(route, scope)
            return await self._run_route(table, route, context, scope, receive, parameter)
        except RequestError as error:
            return self._error_response(error, table.dialect(method, path), context)
        # The event loop is closing: a client that disconnects, or a timeout, raises a RequestError instead.
        except asyncio.CancelledError:
            return self._error_response(EngineFailed(_SHUTDOWN), table.dialect(method, path), context)
        except Exception:
            logger.exception("%s %s failed", method, path)
            failure = Internal("The server failed on this request. The reason is in its log.")
            return self._error_response(failure, table.dialect(method, path), context)

    async def _run_route(
        self, table: RouteTable, route: Route, context: RequestContext, scope: Scope, receive: Receive, parameter: str
    ) -> Response:
        """Read and decode the body, and call the handler of the route within the request timeout."""
        call = RequestInfo(scope["headers"], parameter)
        if not route.has_deadline:
            return await route.handle(None, call)
        self._drain.enter()
        try:
            # Read the body before starting the request timeout: the connection limits how long a body may take.
            raw = await read_body(scope, receive, min(self._max_body_bytes, route.body_bytes or self._max_body_bytes))
            async with self._timeout(route, scope):
                request = None if route.request_type is None else decode(table.decoders[route.request_type], raw)
                context.mark(RequestPhase.READ)
                with DisconnectWatcher(receive):
                    response = await route.handle(request, call)
                if len(context.marks) > 1:  # the handler did some work, so its last phase was to write the response
                    since = context.marks[-1][1]
                    context.mark(RequestPhase.SERIALISE)
                    self._metrics.serialise_seconds.observe(context.marks[-1][1] - since)
                return response
        finally:
            self._drain.leave()

    def _timeout(self, route: Route, scope: Scope) -> AbstractAsyncContextManager[None]:
        if route.admin:  # a reload has no timeout
            return nullcontext()
        return deadline.enforce_timeout(deadline.timeout_from_headers(scope["headers"], self._timeout_seconds))

    def _authorise(self, route: Route, scope: Scope) -> None:
        """Raise Unauthorised for a request without a valid key, Forbidden for a key that does not permit this route."""
        keys, state, headers = self._required_keys(route), self._state, scope["headers"]
        if not keys:
            self._browser_guard.check(scope)
        if keys.carried_by(headers):
            return
        if (route.admin or route.writes) and (state.keys | state.writers).carried_by(headers):
            wanted = "a write key or an admin key" if route.writes else "an admin key"
            raise Forbidden(f"This key does not permit the request: {route.method} {route.path} requires {wanted}.")
        if len(keys) and state.writers.carried_by(headers):
            raise Unauthorised(
                f"This is a write key or an admin key, but {route.method} {route.path} requires an API key: send the "
                "header Authorization: Bearer KEY with an API key.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        keys.require(headers)

    def _required_keys(self, route: Route) -> ApiKeys:
        """Return the keys that permit this route. Raises Forbidden if the server has no key of the required kind."""
        if route.writes:
            if not self._state.writers:
                raise Forbidden(
                    f"{route.method} {route.path} requires a write key, but this server has none: start it with "
                    f"{WRITE.option} FILE, or with {WRITE.variable}."
                )
            return self._state.writers
        if not route.admin:
            return self._state.keys
        if not self._state.admin:
            raise Forbidden(
                f"{route.path} requires an admin key, but this server has none: start it with {ADMIN.option} FILE, or "
                f"with {ADMIN.variable}."
            )
        return self._state.admin

    def _error_response(self, error: RequestError, dialect: ApiDialect, context: RequestContext) -> Response:
        self._metrics.count_error(error)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        return Response(body(error, dialect, context.id), ERROR_MAPPINGS[type(error)].status(dialect), headers=headers)


def _path_prefix(path: str) -> str:
    """Return the first part of a path: /v1 for /v1/embeddings."""
    return path[: path.find("/", 1)] if "/" in path[1:] else path
