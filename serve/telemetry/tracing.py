"""Tracing setup: creates a tracer if OpenTelemetry's variables configure one. Only then it imports OpenTelemetry."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from embedship.errors import MissingExtra
from embedship.serve.telemetry.request_context import RequestContext

logger = logging.getLogger(__name__)

# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SUPPORTED_PROTOCOL = "http/protobuf"


class RequestTracer(Protocol):
    """Records answered requests. Called on the event loop."""

    def record_request(
        self, context: RequestContext, scope: Mapping[str, Any], route: str, status: int, seconds: float
    ) -> None:
        """Record a request that has just been answered and took `seconds`."""

    def close(self) -> None:
        """Send the remaining spans, if the collector accepts them."""


def tracer_from_environment(environment: Mapping[str, str]) -> RequestTracer | None:
    """Return the tracer that OpenTelemetry's variables configure, or None.

    A configuration that is not supported is logged as a warning, because the server must also start without traces.
    """
    if not _wanted(environment):
        return None
    protocol = _first(environment, _PROTOCOLS) or _SUPPORTED_PROTOCOL
    if protocol != _SUPPORTED_PROTOCOL:
        logger.warning(
            "tracing is disabled: %s is %s, but only %s is supported", _PROTOCOLS[1], protocol, _SUPPORTED_PROTOCOL
        )
        return None
    try:
        from embedship.serve.telemetry.spans import OtelTracer
    except ModuleNotFoundError as missing:
        logger.warning("tracing is disabled: %s", MissingExtra(missing.name or "opentelemetry", "otel"))
        return None
    logger.info("traces are sent over OTLP, as configured by the variables OTEL_*")
    return OtelTracer.open()


def _wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    names = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    exporters = {each.strip() for each in names.split(",")} if names else set()
    if exporters - {"otlp", "none"}:
        logger.warning("OTEL_TRACES_EXPORTER is %s, but otlp is the only supported exporter", names)
    return "otlp" in exporters if exporters else _first(environment, _ENDPOINTS) is not None


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """Return the first variable that is set. The specification treats an empty variable as unset."""
    return next((environment[name] for name in names if environment.get(name)), None)
