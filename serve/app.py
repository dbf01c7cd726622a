"""The ASGI application: finds the route, times and counts the request, and turns every error into an answer."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

from embedship.serve.api import Api
from embedship.serve.errors import ANSWERS, Family, Internal, RequestError, UnknownPath, WrongMethod, body
from embedship.serve.house import House
from embedship.serve.http import Headers, Presence, Receive, Reply, Route, Scope, Send, answer, decode, read
from embedship.serve.metrics import OTHER
from embedship.serve.service import Service

logger = logging.getLogger(__name__)


class Face:
    """The routes of one service, and the headers that say whose answer it is."""

    def __init__(self, house: House, service: Service) -> None:
        self.service = service
        routes = Api(house, service).routes
        self.paths: dict[str, dict[str, Route]] = {}
        for route in routes:
            self.paths.setdefault(route.path, {})[route.method] = route
        self.decoders: dict[Any, msgspec.json.Decoder[Any]] = {
            route.takes: msgspec.json.Decoder(route.takes) for route in routes if route.takes is not None
        }
        self.counted = {route.path: route.part_of or route.path for route in routes}
        house.metrics.expect(dict.fromkeys(self.counted.values()))
        self.always: Headers = ((b"x-embedship-fingerprint", service.bundle.fingerprint.encode()),)
        self.closing: Headers = (*self.always, (b"connection", b"close"))

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
    """One a server; any ASGI server runs it, and tests call it through httpx.ASGITransport."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._metrics = house.metrics
        self._keys = house.keys
        self._drain = house.drain
        self._limit = house.settings.max_body_bytes
        self._face = Face(house, house.service)

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
            self._face = Face(self._house, self._house.service)
        return self._face

    async def _answer(self, face: Face, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        path: str = scope["path"]
        try:
            reply = await self._reply(face, scope, receive)
        except RequestError as error:
            reply = self._refusal(error, path)
        except Exception:
            logger.exception("%s %s failed", scope["method"], path)
            reply = self._refusal(Internal("The server failed on this request; its log says why."), path)
        await answer(send, reply, face.closing if self._drain.draining else face.always)
        self._metrics.answered(face.counted.get(path, OTHER), reply.status, time.perf_counter() - began)

    async def _reply(self, face: Face, scope: Scope, receive: Receive) -> Reply:
        route = face.route(scope["method"], scope["path"])
        if not route.open:
            self._keys.require(scope["headers"])
        if not route.works:
            return await route.handle(None)
        self._drain.enter()
        try:
            raw = await read(scope, receive, min(self._limit, route.body_bytes or self._limit))
            request = decode(face.decoders[route.takes], raw)
            with Presence(receive):
                return await route.handle(request)
        finally:
            self._drain.leave()

    def _refusal(self, error: RequestError, path: str) -> Reply:
        self._metrics.refused(error)
        family = Family.OPENAI if path.startswith("/v1/") else Family.FLAT
        headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        return Reply(body(error, family), ANSWERS[type(error)].status(family), headers=headers)
