"""OpenTelemetry traces: one span per POST request, with one child span per phase.

Spans are created after the response was sent, from times that are measured anyway, so tracing does not delay requests.
Names and attributes follow the semantic conventions for HTTP servers
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/); additional attributes start with `embedship.`.
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

# Maximum time that the shutdown waits for a collector that does not respond.
CLOSE_SECONDS = 2.0

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_UNNAMED = "unknown_service"


class OtelTracer:
    """Creates spans for answered requests. `provider` decides which are sampled and where they are sent."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("embedship.serve", __version__)

    @classmethod
    def open(cls) -> Self:
        """Return a tracer that sends OTLP over HTTP in a thread, from a bounded queue (OTEL_BSP_MAX_QUEUE_SIZE)."""
        resource = Resource.create(
            {"service.version": __version__}
        )  # reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: "embedship"}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def record_request(
        self, context: RequestContext, scope: Mapping[str, Any], route: str, status: int, seconds: float
    ) -> None:
        """Create the spans of a request that has just been answered; `seconds` is its total duration."""
        ended = time.time_ns()
        began = ended - int(1e9 * seconds)
        parent = propagate.extract(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        )
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes = _span_attributes(context, scope, method, route, status)
        template = attributes.get("http.route", "")
        name = f"{'HTTP' if method == '_OTHER' else method} {template}".rstrip()
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=began)
        if span.is_recording():
            self._record_phases(context, trace.set_span_in_context(span, parent), began)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """Send the remaining spans, for at most CLOSE_SECONDS: exports that fail are retried for 30 s."""
        flush = Thread(target=self._provider.shutdown, daemon=True)
        flush.start()
        flush.join(CLOSE_SECONDS)

    def _record_phases(self, context: RequestContext, parent: Context, began: int) -> None:
        for phase, start, end in context.spans():
            first, last = (began + int(1e9 * (at - context.began)) for at in (start, end))
            self._tracer.start_span(phase, parent, start_time=first).end(last)


def _span_attributes(
    context: RequestContext, scope: Mapping[str, Any], method: str, route: str, status: int
) -> dict[str, str | int]:
    """Return the attributes of a request. They never contain texts, keys or the address of the client."""
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "http.response.status_code": status,
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope["http_version"],
        "embedship.request_id": context.id,
        "embedship.texts": len(context.lengths),
        "embedship.tokens": sum(context.lengths),
    }
    if route != OTHER:
        attributes["http.route"] = route
    if method == "_OTHER":
        attributes["http.request.method_original"] = scope["method"]
    if scope.get("server"):
        attributes["server.address"], port = scope["server"]
        attributes |= {"server.port": port} if port else {}
    if status >= 500:
        attributes["error.type"] = str(status)
    return attributes
