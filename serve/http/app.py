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

    def __init__(self, house: ServerState, service: ModelService, found: tuple[Route, ...]) -> None:
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
        house.metrics.preregister_routes(dict.fromkeys((*self.counted.values(), *self.apart.values())))
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

    def __init__(self, house: ServerState, traces: RequestTracer | None = None, offer: RouteFactory = routes) -> None:
        self._house = house
        self._offer = offer
        self._metrics = house.metrics
        self._accesses = house.settings.access_log
        self._traces = traces
        self._drain = house.drain
        self._browsers = BrowserGuard.parse(house.settings.allowed_hosts)
        self._limit = house.settings.max_body_bytes
        self._seconds = house.settings.request_seconds
        self.reload = Reloader(house)
        self._face = self._build_route_table(house.service)
        self._prepared: dict[ModelService, RouteTable] = {}  # of services that are about to answer
        house.prepared_by(self._prepare)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is spoken here, not {scope['type']}")
        face = self._current_route_table()
        face.service.request_started()
        try:
            await self._handle_request(face, scope, receive, send)
        finally:
            face.service.request_finished()

    def _current_route_table(self) -> RouteTable:
        """Of the service that answers now. A request keeps the one it got, whatever happens meanwhile."""
        if self._face.service is not self._house.service:
            self._face = self._prepared.pop(self._house.service)
        return self._face

    def _prepare(self, service: ModelService) -> None:
        """Called before `service` answers, off the event loop: routes, decoders and OpenAPI take tens of ms."""
        now = self._house.service
        kept = {known: face for known, face in self._prepared.items() if known is now}
        self._prepared = {**kept, service: self._build_route_table(service)}

    def _build_route_table(self, service: ModelService) -> RouteTable:
        return RouteTable(self._house, service, self._offer(self._house, service, self.reload))

    def refuse(self, error: RequestError, path: str) -> Response:
        """The answer to a request that is not let in, or only in part."""
        face, visit = self._current_route_table(), RequestContext(())
        reply = self._refusal(error, face.family("", path), visit)
        return reply._replace(headers=(*face.closing, *visit.headers(), *reply.headers))

    async def _handle_request(self, face: RouteTable, scope: Scope, receive: Receive, send: Send) -> None:
        visit = RequestContext(scope["headers"])
        path, rest = scope["path"], ""
        if path not in face.paths:
            path, rest = face.template(path)
        entered = current_request.set(visit)
        try:
            reply = await self._handle_errors(face, visit, scope, receive, path, rest)
            always = face.closing if self._drain.draining else face.always
            await send_response(send, reply, (*always, *visit.headers()))
            self._record_request(face, visit, scope, path, reply.status)
        finally:
            current_request.reset(entered)

    def _record_request(self, face: RouteTable, visit: RequestContext, scope: Scope, path: str, status: int) -> None:
        """Its last byte has been sent."""
        route, seconds = face.counted.get(path, OTHER), time.perf_counter() - visit.began
        self._metrics.answered(face.apart[path] if visit.apart else route, status, seconds)
        if self._accesses:
            logs.log_access(visit, scope["method"], route, status, seconds)
        if self._traces and scope["method"] == "POST":  # the others are probes
            self._traces.record_request(visit, scope, route, status, seconds)

    async def _handle_errors(
        self, face: RouteTable, visit: RequestContext, scope: Scope, receive: Receive, path: str, rest: str
    ) -> Response:
        method = scope["method"]
        try:
            return await self._authorise_and_read(face, visit, scope, receive, path, rest)
        except RequestError as error:
            return self._refusal(error, face.family(method, path), visit)
        except asyncio.CancelledError:  # by the end of the event loop: who leaves or is late is a RequestError
            return self._refusal(EngineFailed(_ENDED), face.family(method, path), visit)
        except Exception:
            logger.exception("%s %s failed", method, path)
            failure = Internal("The server failed on this request; its log says why.")
            return self._refusal(failure, face.family(method, path), visit)

    async def _authorise_and_read(
        self, face: RouteTable, visit: RequestContext, scope: Scope, receive: Receive, path: str, rest: str
    ) -> Response:
        route, call = face.route(scope["method"], path), RequestInfo(scope["headers"], rest)
        if not route.open:
            self._authorise(route, scope)
        if not route.has_deadline:
            return await route.handle(None, call)
        self._drain.enter()
        try:
            # Before its time begins: how long a body takes is its client's doing, and the listener's to limit.
            raw = await read_body(scope, receive, min(self._limit, route.body_bytes or self._limit))
            if route.admin:  # a reload takes as long as it takes
                return await self._decode_and_dispatch(face, visit, route, call, raw, receive)
            async with deadline.enforce_timeout(deadline.timeout_from_headers(scope["headers"], self._seconds)):
                return await self._decode_and_dispatch(face, visit, route, call, raw, receive)
        finally:
            self._drain.leave()

    async def _decode_and_dispatch(
        self, face: RouteTable, visit: RequestContext, route: Route, call: RequestInfo, raw: bytes, receive: Receive
    ) -> Response:
        request = None if route.takes is None else decode(face.decoders[route.takes], raw)
        visit.mark(RequestPhase.READ)
        with DisconnectWatcher(receive):
            reply = await route.handle(request, call)
        if len(visit.marks) > 1:  # it did more than read: nothing else has an answer to write
            since = visit.marks[-1][1]
            visit.mark(RequestPhase.SERIALISE)
            self._metrics.serialise_seconds.observe(visit.marks[-1][1] - since)
        return reply

    def _authorise(self, route: Route, scope: Scope) -> None:
        """Raises Unauthorised for a request without a key of this server, Forbidden for a key without the right."""
        keys, house, headers = self._keys(route), self._house, scope["headers"]
        if not keys:
            self._browsers.check(scope)
        if keys.carried_by(headers):
            return
        if (route.admin or route.writes) and (house.keys | house.writers).carried_by(headers):
            wanted = "a write key or an admin key" if route.writes else "an admin key"
            raise Forbidden(f"This key may not do that: {route.method} {route.path} asks for {wanted}.")
        if len(keys) and house.writers.carried_by(headers):
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
            return self._house.keys
        if not self._house.admin:
            raise Forbidden(
                f"{route.path} asks for an admin key, and this server has none: start it with {ADMIN.option} FILE, or "
                f"with {ADMIN.variable}."
            )
        return self._house.admin

    def _writers(self, route: Route) -> ApiKeys:
        if not self._house.writers:
            raise Forbidden(
                f"{route.method} {route.path} asks for a write key, and this server has none: start it with "
                f"{WRITE.option} FILE, or with {WRITE.variable}."
            )
        return self._house.writers

    def _refusal(self, error: RequestError, family: ApiDialect, visit: RequestContext) -> Response:
        self._metrics.count_error(error)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        return Response(body(error, family, visit.id), ERROR_MAPPINGS[type(error)].status(family), headers=headers)


def _path_prefix(path: str) -> str:
    """/v1 of /v1/embeddings."""
    return path[: path.find("/", 1)] if "/" in path[1:] else path
