"""The ASGI application: finds the route, times and counts the request, and turns every error into an answer."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

from embedship.serve.errors import ANSWERS, Family, Internal, RequestError, UnknownPath, WrongMethod, body
from embedship.serve.http import Call, Headers, Presence, Receive, Reply, Route, Scope, Send, answer, decode, read
from embedship.serve.metrics import OTHER
from embedship.serve.routes import routes
from embedship.serve.service import Service

logger = logging.getLogger(__name__)


class App:
    """One a service; any ASGI server runs it, and tests call it through httpx.ASGITransport."""

    def __init__(self, service: Service) -> None:
        found = routes(service)
        self._paths: dict[str, dict[str, Route]] = {}
        self._homes: dict[str, Family] = {}
        for route in found:
            self._paths.setdefault(route.path, {})[route.method] = route
            self._homes.setdefault(_home(route.path), route.family)
        self._tails = tuple({route.tail: route.path for route in found if route.tail}.items())
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {
            route.takes: msgspec.json.Decoder(route.takes) for route in found if route.takes is not None
        }
        self._metrics = service.metrics
        self._counted = {route.path: route.part_of or route.path for route in found}
        self._metrics.expect(dict.fromkeys(self._counted.values()))
        self._keys = service.keys
        self._drain = service.drain
        self._limit = service.settings.max_body_bytes
        self._always: Headers = ((b"x-embedship-fingerprint", service.bundle.fingerprint.encode()),)
        self._closing: Headers = (*self._always, (b"connection", b"close"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is spoken here, not {scope['type']}")
        began = time.perf_counter()
        method, path = scope["method"], scope["path"]
        rest = ""
        if path not in self._paths:
            path, rest = self._template(path)
        try:
            reply = await self._reply(scope, receive, path, rest)
        except RequestError as error:
            reply = self._refusal(error, method, path)
        except Exception:
            logger.exception("%s %s failed", method, path)
            reply = self._refusal(Internal("The server failed on this request; its log says why."), method, path)
        await answer(send, reply, self._closing if self._drain.draining else self._always)
        self._metrics.answered(self._counted.get(path, OTHER), reply.status, time.perf_counter() - began)

    async def _reply(self, scope: Scope, receive: Receive, path: str, rest: str) -> Reply:
        route, call = self._route(scope["method"], path), Call(scope["headers"], rest)
        if not route.open:
            self._keys.require(scope["headers"])
        if not route.works:
            return await route.handle(None, call)
        self._drain.enter()
        try:
            raw = await read(scope, receive, min(self._limit, route.body_bytes or self._limit))
            request = decode(self._decoders[route.takes], raw)
            with Presence(receive):
                return await route.handle(request, call)
        finally:
            self._drain.leave()

    def _template(self, path: str) -> tuple[str, str]:
        """The path of the route that ends in a {parameter}, and its value; a path that is no route's, as it is."""
        for tail, template in self._tails:
            if path.startswith(tail) and path != tail:
                return template, path[len(tail) :]
        return path, ""

    def _route(self, method: str, path: str) -> Route:
        methods = self._paths.get(path)
        if methods is None:
            known = ", ".join(
                f"{m} {path}" for path, methods in self._paths.items() for m in methods if self._counted[path] == path
            )
            raise UnknownPath(f"There is no {path} here. The routes are: {known}.")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = ", ".join(methods)
            raise WrongMethod(f"{path} takes {allowed}, not {method}.", headers={"Allow": allowed})
        return route

    def _refusal(self, error: RequestError, method: str, path: str) -> Reply:
        self._metrics.refused(error)
        family = self._family(method, path)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers.items())
        return Reply(body(error, family), ANSWERS[type(error)].status(family), headers=headers)

    def _family(self, method: str, path: str) -> Family:
        """Whose shape an error takes: the route's; where there is none, that of the path's neighbours."""
        methods = self._paths.get(path)
        if methods is None:
            return self._homes.get(_home(path), Family.FLAT)
        return (methods.get(method) or next(iter(methods.values()))).family


def _home(path: str) -> str:
    """/v1 of /v1/embeddings."""
    return path[: path.find("/", 1)] if "/" in path[1:] else path
