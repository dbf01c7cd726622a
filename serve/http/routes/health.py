"""Routes for orchestrators, monitoring systems and people. None of them runs the model."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from embedship.monitor.monitor import MonitorStatus
from embedship.serve import schemas
from embedship.serve.errors import Forbidden, Unauthorised
from embedship.serve.http.messages import RequestInfo, Response, Route
from embedship.serve.http.routes import common
from embedship.serve.http.routes.info import info
from embedship.serve.service.reload import Reloader
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState
from embedship.serve.telemetry.request_context import count_separately

_ROOT = b"embedship is running. GET /openapi.json lists the routes, and /monitor/ui shows the live state.\n"


def routes(state: ServerState, service: ModelService) -> tuple[Route, ...]:
    """Return the routes of the main port; /metrics only if --metrics-port is not set."""
    handlers = HealthRoutes(state, service)
    main = (
        *_health_checks(handlers),
        Route("GET", "/", "A sentence that says what runs here", handlers.root, separate_label="/health",
              errors=(Unauthorised, Forbidden)),
        Route("GET", "/info", "The running model and its limits", handlers.info, response_type=schemas.Info,
              errors=(Unauthorised, Forbidden)),
        Route("GET", "/monitor", "State of the monitor: diagnosis, reports, evidence", handlers.monitor,
              response_type=MonitorStatus, errors=(Unauthorised, Forbidden)),
    )  # fmt: skip
    return main if state.settings.metrics_port is not None else (*main, _metrics(handlers))


def metrics_routes(state: ServerState, service: ModelService, reload: Reloader) -> tuple[Route, ...]:
    """Return the routes of --metrics-port."""
    handlers = HealthRoutes(state, service)
    return (*_health_checks(handlers), _metrics(handlers))


def _health_checks(handlers: HealthRoutes) -> tuple[Route, ...]:
    return (
        Route("GET", "/health", "Whether the process works; if not, restart it", handlers.health,
              response_type=schemas.Health, unready=True, public=True),
        Route("GET", "/ready", "Whether the server accepts requests", handlers.ready,
              response_type=schemas.Readiness, unready=True, public=True),
    )  # fmt: skip


def _metrics(handlers: HealthRoutes) -> Route:
    return Route("GET", "/metrics", "Prometheus metrics", handlers.metrics, public=True)


class HealthRoutes:
    def __init__(self, state: ServerState, service: ModelService) -> None:
        self._state = state
        self._service = service

    async def health(self, _: None, call: RequestInfo) -> Response:
        alive = all(model.workers.alive for model in self._service.models)
        return Response(common.encode(schemas.Health("ok" if alive else "failed")), 200 if alive else 503)

    async def ready(self, _: None, call: RequestInfo) -> Response:
        readiness = self._state.readiness
        return Response(common.encode(readiness), 200 if readiness.ready else 503)

    async def root(self, _: None, call: RequestInfo) -> Response:
        count_separately()  # it is a check, unlike POST /, which encodes texts
        return Response(_ROOT, content_type=b"text/plain; charset=utf-8")

    async def info(self, _: None, call: RequestInfo) -> Response:
        return Response(common.encode(info(self._service)))

    async def monitor(self, _: None, call: RequestInfo) -> Response:
        return Response(common.encode(self._service.monitor.report()))

    async def metrics(self, _: None, call: RequestInfo) -> Response:
        return Response(generate_latest(self._state.registry), content_type=CONTENT_TYPE_PLAIN_0_0_4.encode())
