"""The ASGI application: finds the route, times and counts the request, and turns every error into an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
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
from embedship.serve.http.routes import LOST, routes
from embedship.serve.service.reload import Reloader
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState
from embedship.serve.telemetry import logs
from embedship.serve.telemetry.metrics import OTHER
from embedship.serve.telemetry.request_context import RequestContext, RequestPhase, current_request
from embedship.serve.telemetry.tracing import RequestTracer

logger = logging.getLogger(__name__)


_ENDED = "The server had to end before this request was answered: send it again, to another one."

RouteFactory = Callable[[ServerState, ModelService, Reloader], tuple[Route, ...]]


class RouteTable:
    """The routes of one service, and the headers that say whose answer it is."""

    def __init__(self, state: ServerState, service: ModelService, found: tuple[Route, ...]) -> None:
        self.service = service
        self.paths: dict[str, dict[str, Route]] = {}
        for route in found:
            self.paths.setdefault(route.path, {})[route.method] = route
        self._tails = tuple({route.tail: route.path for route in found if route.tail}.items())
        self.decoders: dict[Any, msgspec.json.Decoder[Any]] = {
            route.takes: msgspec.json.Decoder(route.takes) for route in found if route.takes is not None
        }
        self.counted = {route.path: route.part_of or route.path for route in found}
        self.apart = {route.path: route.apart for route in found if route.apart}
        state.metrics.preregister_routes(dict.fromkeys((*self.counted.values(), *self.apart.values())))
        self.always: Headers = ((b"x-embedship-fingerprint", service.bundle.fingerprint.encode()),)
        self.closing: Headers = (*self.always, (b"connection", b"close"))

    def template(self, path: str) -> tuple[str, str]:
        """The path of the route that ends in a {parameter}, and its value; a path that is no route's, as it is."""
        for tail, template in self._tails:
            if path.startswith(tail) and path != tail:
                return template, path[len(tail) :]
        return path, ""

    def family(self, method: str, path: str) -> ApiDialect:
        """Whose shape an error takes: the route's; where there is none, as LOST says."""
        methods = self.paths.get(path)
        if methods is None:
            return LOST.get(_path_prefix(path), ApiDialect.FLAT)
        return (methods.get(method) or next(iter(methods.values()))).family

    def route(self, method: str, path: str) -> Route:
        methods = self.paths.get(path)
        if methods is None:
            known = ", ".join(
                f"{m} {path}" for path, methods in self.paths.items() for m in methods if self.counted[path] == path
            )
            raise UnknownPath(f"There is no {path} here. The routes are: {known}.")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = ", ".join(methods)
            raise WrongMethod(f"{path} takes {allowed}, not {method}.", headers={"Allow": allowed})
        return route


class App:
    """One a listener; any ASGI server runs it, and tests call it through httpx.ASGITransport."""

    def __init__(self, state: ServerState, traces: RequestTracer | None = None, offer: RouteFactory = routes) -> None:
        self._state = state
        self._offer = offer
        self._metrics = state.metrics
        self._accesses = state.settings.access_log
        self._traces = traces
        self._drain = state.drain
        self._browsers = BrowserGuard.parse(state.settings.allowed_hosts)
        self._limit = state.settings.max_body_bytes
        self._seconds = state.settings.request_seconds
        self.reload = Reloader(state)
        self._table = self._build_route_table(state.service)
        self._prepared: dict[ModelService, RouteTable] = {}  # of services that are about to answer
        state.prepared_by(self._prepare)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is spoken here, not {scope['type']}")
        table = self._current_route_table()
        table.service.request_started()
        try:
            await self._handle_request(table, scope, receive, send)
        finally:
            table.service.request_finished()

    def _current_route_table(self) -> RouteTable:
        """Of the service that answers now. A request keeps the one it got, whatever happens meanwhile."""
        if self._table.service is not self._state.service:
            self._table = self._prepared.pop(self._state.service)
        return self._table

    def _prepare(self, service: ModelService) -> None:
        """Called before `service` answers, off the event loop: routes, decoders and OpenAPI take tens of ms."""
        now = self._state.service
        kept = {known: table for known, table in self._prepared.items() if known is now}
        self._prepared = {**kept, service: self._build_route_table(service)}

    def _build_route_table(self, service: ModelService) -> RouteTable:
        return RouteTable(self._state, service, self._offer(self._state, service, self.reload))

    def refuse(self, error: RequestError, path: str) -> Response:
        """The answer to a request that is not let in, or only in part."""
        table, context = self._current_route_table(), RequestContext(())
        reply = self._refusal(error, table.family("", path), context)
        return reply._replace(headers=(*table.closing, *context.headers(), *reply.headers))

    async def _handle_request(self, table: RouteTable, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(scope["headers"])
        path, rest = scope["path"], ""
        if path not in table.paths:
            path, rest = table.template(path)
        entered = current_request.set(context)
        try:
            reply = await self._handle_errors(table, context, scope, receive, path, rest)
            always = table.closing if self._drain.draining else table.always
            await send_response(send, reply, (*always, *context.headers()))
            self._record_request(table, context, scope, path, reply.status)
        finally:
            current_request.reset(entered)

    def _record_request(self, table: RouteTable, context: RequestContext, scope: Scope, path: str, status: int) -> None:
        """Its last byte has been sent."""
        route, seconds = table.counted.get(path, OTHER), time.perf_counter() - context.began
        self._metrics.answered(table.apart[path] if context.apart else route, status, seconds)
        if self._accesses:
            logs.log_access(context, scope["method"], route, status, seconds)
        if self._traces and scope["method"] == "POST":  # the others are probes
            self._traces.record_request(context, scope, route, status, seconds)

    async def _handle_errors(
        self, table: RouteTable, context: RequestContext, scope: Scope, receive: Receive, path: str, rest: str
    ) -> Response:
        method = scope["method"]
        try:
            return await self._authorise_and_read(table, context, scope, receive, path, rest)
        except RequestError as error:
            return self._refusal(error, table.family(method, path), context)
        except asyncio.CancelledError:  # by the end of the event loop: who leaves or is late is a RequestError
            return self._refusal(EngineFailed(_ENDED), table.family(method, path), context)
        except Exception:
            logger.exception("%s %s failed", method, path)
            failure = Internal("The server failed on this request; its log says why.")
            return self._refusal(failure, table.family(method, path), context)

    async def _authorise_and_read(
        self, table: RouteTable, context: RequestContext, scope: Scope, receive: Receive, path: str, rest: str
    ) -> Response:
        route, call = table.route(scope["method"], path), RequestInfo(scope["headers"], rest)
        if not route.open:
            self._authorise(route, scope)
        if not route.has_deadline:
            return await route.handle(None, call)
        self._drain.enter()
        try:
            # Before its time begins: how long a body takes is its client's doing, and the listener's to limit.
            raw = await read_body(scope, receive, min(self._limit, route.body_bytes or self._limit))
            if route.admin:  # a reload takes as long as it takes
                return await self._decode_and_dispatch(table, context, route, call, raw, receive)
            async with deadline.enforce_timeout(deadline.timeout_from_headers(scope["headers"], self._seconds)):
                return await self._decode_and_dispatch(table, context, route, call, raw, receive)
        finally:
            self._drain.leave()

    async def _decode_and_dispatch(
        self, table: RouteTable, context: RequestContext, route: Route, call: RequestInfo, raw: bytes, receive: Receive
    ) -> Response:
        request = None if route.takes is None else decode(table.decoders[route.takes], raw)
        context.mark(RequestPhase.READ)
        with DisconnectWatcher(receive):
            reply = await route.handle(request, call)
        if len(context.marks) > 1:  # it did more than read: nothing else has an answer to write
            since = context.marks[-1][1]
            context.mark(RequestPhase.SERIALISE)
            self._metrics.serialise_seconds.observe(context.marks[-1][1] - since)
        return reply

    def _authorise(self, route: Route, scope: Scope) -> None:
        """Raises Unauthorised for a request without a key of this server, Forbidden for a key without the right."""
        keys, state, headers = self._keys(route), self._state, scope["headers"]
        if not keys:
            self._browsers.check(scope)
        if keys.carried_by(headers):
            return
        if (route.admin or route.writes) and (state.keys | state.writers).carried_by(headers):
            wanted = "a write key or an admin key" if route.writes else "an admin key"
            raise Forbidden(f"This key may not do that: {route.method} {route.path} asks for {wanted}.")
        if len(keys) and state.writers.carried_by(headers):
            raise Unauthorised(
                f"This key may write or administer, and {route.method} {route.path} asks for an API key: send the "
                "header Authorization: Bearer KEY with one.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        keys.require(headers)

    def _keys(self, route: Route) -> ApiKeys:
        if route.writes:
            return self._writers(route)
        if not route.admin:
            return self._state.keys
        if not self._state.admin:
            raise Forbidden(
                f"{route.path} asks for an admin key, and this server has none: start it with {ADMIN.option} FILE, or "
                f"with {ADMIN.variable}."
            )
        return self._state.admin

    def _writers(self, route: Route) -> ApiKeys:
        if not self._state.writers:
            raise Forbidden(
                f"{route.method} {route.path} asks for a write key, and this server has none: start it with "
                f"{WRITE.option} FILE, or with {WRITE.variable}."
            )
        return self._state.writers

    def _refusal(self, error: RequestError, family: ApiDialect, context: RequestContext) -> Response:
        self._metrics.count_error(error)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        return Response(body(error, family, context.id), ERROR_MAPPINGS[type(error)].status(family), headers=headers)


def _path_prefix(path: str) -> str:
    """/v1 of /v1/embeddings."""
    return path[: path.find("/", 1)] if "/" in path[1:] else path
