"""What orchestrators, scrapers and people ask of a running server. None of it runs the model."""

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


def routes(house: ServerState, service: ModelService) -> tuple[Route, ...]:
    """Those of the server's port; /metrics only where it has no port of its own."""
    probes = HealthRoutes(house, service)
    found = (
        *_asked_by_orchestrators(probes),
        Route("GET", "/info", "What runs here", probes.info, gives=schemas.Info, errors=(Unauthorised, Forbidden)),
        Route("GET", "/monitor", "What the monitor knows: diagnosis, reports, evidence", probes.monitor,
              gives=MonitorStatus, errors=(Unauthorised, Forbidden)),
    )  # fmt: skip
    return found if house.settings.metrics_port is not None else (*found, _metrics(probes))


def beside(house: ServerState, service: ModelService, reload: Reloader) -> tuple[Route, ...]:
    """Those of --metrics-port."""
    probes = HealthRoutes(house, service)
    return (*_asked_by_orchestrators(probes), _metrics(probes))


def _asked_by_orchestrators(probes: HealthRoutes) -> tuple[Route, ...]:
    return (
        Route("GET", "/health", "Whether the process can work: restart it if not", probes.health,
              gives=schemas.Health, unready=True, open=True),
        Route("GET", "/ready", "Whether to send requests here", probes.ready, gives=schemas.Readiness, unready=True,
              open=True),
    )  # fmt: skip


def _metrics(probes: HealthRoutes) -> Route:
    return Route("GET", "/metrics", "Prometheus metrics", probes.metrics, open=True)


class HealthRoutes:
    def __init__(self, house: ServerState, service: ModelService) -> None:
        self._house = house
        self._service = service

    async def health(self, _: None, call: RequestInfo) -> Response:
        alive = all(model.workers.alive for model in self._service.models)
        return Response(common.encode(schemas.Health("ok" if alive else "failed")), 200 if alive else 503)

    async def ready(self, _: None, call: RequestInfo) -> Response:
        readiness = self._house.readiness
        return Response(common.encode(readiness), 200 if readiness.ready else 503)

    async def info(self, _: None, call: RequestInfo) -> Response:
        return Response(common.encode(info(self._service)))

    async def monitor(self, _: None, call: RequestInfo) -> Response:
        return Response(common.encode(self._service.watch.report()))

    async def metrics(self, _: None, call: RequestInfo) -> Response:
        return Response(generate_latest(self._house.registry), content_type=CONTENT_TYPE_PLAIN_0_0_4.encode())
