"""OpenTelemetry: a span for each request that was worked on, and below it one for each of its phases.

They are made when the request is over, from times that were taken anyway: until then a trace costs nothing. Names and
attributes are those of the semantic conventions for HTTP servers
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/); `embedship.` is our own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Thread
from typing import Any, Self

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from embedship.serve.telemetry.metrics import OTHER
from embedship.serve.telemetry.request_context import RequestContext
from embedship.version import __version__

# How long the end of the server waits for a collector that does not answer.
CLOSE_SECONDS = 2.0

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_UNNAMED = "unknown_service"


class OtelTracer:
    """`provider` decides what is sampled, and where spans go."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("embedship.serve", __version__)

    @classmethod
    def open(cls) -> Self:
        """OTLP over HTTP, from a queue of bounded length (OTEL_BSP_MAX_QUEUE_SIZE), by a thread of its own."""
        resource = Resource.create({"service.version": __version__})  # reads OTEL_SERVICE_NAME and its like
        if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: "embedship"}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def record_request(
        self, visit: RequestContext, scope: Mapping[str, Any], route: str, status: int, seconds: float
    ) -> None:
        ended = time.time_ns()
        began = ended - int(1e9 * seconds)
        parent = propagate.extract(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        )
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        told = _span_attributes(visit, scope, method, route, status)
        named = told.get("http.route", "")
        name = f"{'HTTP' if method == '_OTHER' else method} {named}".rstrip()
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, told, start_time=began)
        if span.is_recording():
            self._phases(visit, trace.set_span_in_context(span, parent), began)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """A collector that is gone would be tried again for 30 s: whoever drains a server waits for its exit."""
        last = Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)

    def _phases(self, visit: RequestContext, inside: Context, began: int) -> None:
        for phase, start, end in visit.spans():
            first, last = (began + int(1e9 * (at - visit.began)) for at in (start, end))
            self._tracer.start_span(phase, inside, start_time=first).end(last)


def _span_attributes(
    visit: RequestContext, scope: Mapping[str, Any], method: str, route: str, status: int
) -> dict[str, str | int]:
    """What is known of a request, without its texts, its keys and its client's address."""
    told: dict[str, str | int] = {
        "http.request.method": method,
        "http.response.status_code": status,
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope["http_version"],
        "embedship.request_id": visit.id,
        "embedship.texts": len(visit.lengths),
        "embedship.tokens": sum(visit.lengths),
    }
    if route != OTHER:
        told["http.route"] = route
    if method == "_OTHER":
        told["http.request.method_original"] = scope["method"]
    if scope.get("server"):
        told["server.address"], port = scope["server"]
        told |= {"server.port": port} if port else {}
    if status >= 500:
        told["error.type"] = str(status)
    return told
