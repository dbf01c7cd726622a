"""Whether requests are traced: only where OpenTelemetry's own variables ask for it, and only then is it imported."""

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
_SPOKEN = "http/protobuf"


class RequestTracer(Protocol):
    """Takes requests that are over, on the event loop."""

    def record_request(
        self, visit: RequestContext, scope: Mapping[str, Any], route: str, status: int, seconds: float
    ) -> None:
        """A request that took so many seconds has been answered just now."""

    def close(self) -> None:
        """Send what is left, as far as somebody takes it."""


def tracer_from_environment(environment: Mapping[str, str]) -> RequestTracer | None:
    """What OpenTelemetry's variables ask for; None without them. What cannot be had is a warning: requests go first."""
    if not _wanted(environment):
        return None
    protocol = _first(environment, _PROTOCOLS) or _SPOKEN
    if protocol != _SPOKEN:
        logger.warning("no traces: %s is %s, and %s is spoken here", _PROTOCOLS[1], protocol, _SPOKEN)
        return None
    try:
        from embedship.serve.telemetry.spans import OtelTracer
    except ModuleNotFoundError as missing:
        logger.warning("no traces: %s", MissingExtra(missing.name or "opentelemetry", "otel"))
        return None
    logger.info("traces are sent over OTLP, as the variables OTEL_* say")
    return OtelTracer.open()


def _wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    exporters = {each.strip() for each in named.split(",")} if named else set()
    if exporters - {"otlp", "none"}:
        logger.warning("OTEL_TRACES_EXPORTER is %s, and otlp is the one exporter here", named)
    return "otlp" in exporters if exporters else _first(environment, _ENDPOINTS) is not None


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """The first that is set and not empty: an empty variable is none, says the specification."""
    return next((environment[name] for name in names if environment.get(name)), None)
