"""The ASGI application: finds the route, times and counts the request, and turns every error into an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from embedship.serve.api_keys import ADMIN, WRITE, Keys
from embedship.serve.browser_guard import BrowserGuard
from embedship.serve.errors import (
    ANSWERS,
    EngineFailed,
    Family,
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
    Call,
    Headers,
    Presence,
    Receive,
    Reply,
    Route,
    Scope,
    Send,
    answer,
    decode,
    read,
)
from embedship.serve.http.routes import LOST, routes
from embedship.serve.service.reload import Reload
from embedship.serve.service.service import Service
from embedship.serve.service.state import House
from embedship.serve.telemetry import logs
from embedship.serve.telemetry.metrics import OTHER
from embedship.serve.telemetry.request_context import NOW, Phase, Visit
from embedship.serve.telemetry.tracing import Traces

logger = logging.getLogger(__name__)


_ENDED = "The server had to end before this request was answered: send it again, to another one."

Offer = Callable[[House, Service, Reload], tuple[Route, ...]]


class Face:
    """The routes of one service, and the headers that say whose answer it is."""

    def __init__(self, house: House, service: Service, found: tuple[Route, ...]) -> None:
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
        house.metrics.expect(dict.fromkeys((*self.counted.values(), *self.apart.values())))
        self.always: Headers = ((b"x-embedship-fingerprint", service.bundle.fingerprint.encode()),)
        self.closing: Headers = (*self.always, (b"connection", b"close"))

    def template(self, path: str) -> tuple[str, str]:
        """The path of the route that ends in a {parameter}, and its value; a path that is no route's, as it is."""
        for tail, template in self._tails:
            if path.startswith(tail) and path != tail:
                return template, path[len(tail) :]
        return path, ""

    def family(self, method: str, path: str) -> Family:
        """Whose shape an error takes: the route's; where there is none, as LOST says."""
        methods = self.paths.get(path)
        if methods is None:
            return LOST.get(_home(path), Family.FLAT)
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

    def __init__(self, house: House, traces: Traces | None = None, offer: Offer = routes) -> None:
        self._house = house
        self._offer = offer
        self._metrics = house.metrics
        self._accesses = house.settings.access_log
        self._traces = traces
        self._drain = house.drain
        self._browsers = BrowserGuard.parse(house.settings.allowed_hosts)
        self._limit = house.settings.max_body_bytes
        self._seconds = house.settings.request_seconds
        self.reload = Reload(house)
        self._face = self._facing(house.service)
        self._prepared: dict[Service, Face] = {}  # of services that are about to answer
        house.prepared_by(self._prepare)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is spoken here, not {scope['type']}")
        face = self._now()
        face.service.enter()
        try:
            await self._answer(face, scope, receive, send)
        finally:
            face.service.leave()

    def _now(self) -> Face:
        """Of the service that answers now. A request keeps the one it got, whatever happens meanwhile."""
        if self._face.service is not self._house.service:
            self._face = self._prepared.pop(self._house.service)
        return self._face

    def _prepare(self, service: Service) -> None:
        """Called before `service` answers, off the event loop: routes, decoders and OpenAPI take tens of ms."""
        now = self._house.service
        kept = {known: face for known, face in self._prepared.items() if known is now}
        self._prepared = {**kept, service: self._facing(service)}

    def _facing(self, service: Service) -> Face:
        return Face(self._house, service, self._offer(self._house, service, self.reload))

    def refuse(self, error: RequestError, path: str) -> Reply:
        """The answer to a request that is not let in, or only in part."""
        face, visit = self._now(), Visit(())
        reply = self._refusal(error, face.family("", path), visit)
        return reply._replace(headers=(*face.closing, *visit.headers(), *reply.headers))

    async def _answer(self, face: Face, scope: Scope, receive: Receive, send: Send) -> None:
        visit = Visit(scope["headers"])
        path, rest = scope["path"], ""
        if path not in face.paths:
            path, rest = face.template(path)
        entered = NOW.set(visit)
        try:
            reply = await self._replied(face, visit, scope, receive, path, rest)
            always = face.closing if self._drain.draining else face.always
            await answer(send, reply, (*always, *visit.headers()))
            self._seen(face, visit, scope, path, reply.status)
        finally:
            NOW.reset(entered)

    def _seen(self, face: Face, visit: Visit, scope: Scope, path: str, status: int) -> None:
        """Its last byte has been sent."""
        route, seconds = face.counted.get(path, OTHER), time.perf_counter() - visit.began
        self._metrics.answered(face.apart[path] if visit.apart else route, status, seconds)
        if self._accesses:
            logs.access(visit, scope["method"], route, status, seconds)
        if self._traces and scope["method"] == "POST":  # the others are probes
            self._traces.saw(visit, scope, route, status, seconds)

    async def _replied(self, face: Face, visit: Visit, scope: Scope, receive: Receive, path: str, rest: str) -> Reply:
        method = scope["method"]
        try:
            return await self._reply(face, visit, scope, receive, path, rest)
        except RequestError as error:
            return self._refusal(error, face.family(method, path), visit)
        except asyncio.CancelledError:  # by the end of the event loop: who leaves or is late is a RequestError
            return self._refusal(EngineFailed(_ENDED), face.family(method, path), visit)
        except Exception:
            logger.exception("%s %s failed", method, path)
            failure = Internal("The server failed on this request; its log says why.")
            return self._refusal(failure, face.family(method, path), visit)

    async def _reply(self, face: Face, visit: Visit, scope: Scope, receive: Receive, path: str, rest: str) -> Reply:
        route, call = face.route(scope["method"], path), Call(scope["headers"], rest)
        if not route.open:
            self._authorise(route, scope)
        if not route.works:
            return await route.handle(None, call)
        self._drain.enter()
        try:
            # Before its time begins: how long a body takes is its client's doing, and the listener's to limit.
            raw = await read(scope, receive, min(self._limit, route.body_bytes or self._limit))
            if route.admin:  # a reload takes as long as it takes
                return await self._work(face, visit, route, call, raw, receive)
            async with deadline.within(deadline.limit_of(scope["headers"], self._seconds)):
                return await self._work(face, visit, route, call, raw, receive)
        finally:
            self._drain.leave()

    async def _work(self, face: Face, visit: Visit, route: Route, call: Call, raw: bytes, receive: Receive) -> Reply:
        request = None if route.takes is None else decode(face.decoders[route.takes], raw)
        visit.mark(Phase.READ)
        with Presence(receive):
            reply = await route.handle(request, call)
        if len(visit.marks) > 1:  # it did more than read: nothing else has an answer to write
            since = visit.marks[-1][1]
            visit.mark(Phase.SERIALISE)
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

    def _keys(self, route: Route) -> Keys:
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

    def _writers(self, route: Route) -> Keys:
        if not self._house.writers:
            raise Forbidden(
                f"{route.method} {route.path} asks for a write key, and this server has none: start it with "
                f"{WRITE.option} FILE, or with {WRITE.variable}."
            )
        return self._house.writers

    def _refusal(self, error: RequestError, family: Family, visit: Visit) -> Reply:
        self._metrics.refused(error)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        return Reply(body(error, family, visit.id), ANSWERS[type(error)].status(family), headers=headers)


def _home(path: str) -> str:
    """/v1 of /v1/embeddings."""
    return path[: path.find("/", 1)] if "/" in path[1:] else path
