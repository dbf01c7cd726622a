"""Server state: objects that live as long as the process, and the service that currently answers requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, ProcessCollector

from embedship.encoder import Encoder
from embedship.monitor.collector import MonitorCollector
from embedship.monitor.monitor import MonitorStatus
from embedship.serve.api_keys import ADMIN, WRITE, ApiKeys
from embedship.serve.batching.admission import AdmissionController
from embedship.serve.batching.device_metrics import DevicesCollector
from embedship.serve.index import IndexSize
from embedship.serve.schemas import Readiness
from embedship.serve.service.drain import GracefulShutdown
from embedship.serve.service.service import AdmissionControllers, ModelService
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import Metrics
from embedship.serve.telemetry.request_context import Priority


class ServerState:
    """Process-wide state of a server.

    `service` is replaced on the event loop only. Code that answers a request reads it once and keeps that service.
    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        keys: ApiKeys,
        admin: ApiKeys,
        writers: ApiKeys,
        encoder: Encoder | None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.keys = keys
        self.admin = admin
        self.writers = writers | admin
        self.metrics = Metrics(registry, reranks=settings.reranker is not None)
        self.admissions = AdmissionControllers(
            AdmissionController(settings.queue_texts), AdmissionController(settings.queue_texts)
        )
        self.drain = GracefulShutdown(settings.drain_seconds)
        self.service = ModelService.open(settings, self.admissions, self.metrics, encoder)
        self._preparations: list[Callable[[ModelService], None]] = []
        self._service_replaced = asyncio.Event()
        self._register_metrics()

    @classmethod
    def open(
        cls, settings: Settings, registry: CollectorRegistry | None = None, encoder: Encoder | None = None
    ) -> Self:
        """Read the keys and open the service. Raises UsageError for invalid keys, and errors of ModelService.open."""
        keys = ApiKeys.open(settings.api_key_file)
        admin = ApiKeys.open(settings.admin_key_file, scope=ADMIN)
        writers = ApiKeys.open(settings.write_key_file, scope=WRITE)
        return cls(settings, registry or CollectorRegistry(), keys, admin, writers, encoder)

    @property
    def readiness(self) -> Readiness:
        """Whether the server accepts requests: at least one embedding device works, and no shutdown has started."""
        if self.drain.draining:
            return Readiness(False, "draining")
        workers = [model.workers for model in self.service.models]
        up, devices = sum(each.up for each in workers), sum(len(each.devices) for each in workers)
        if up < devices:
            return Readiness(self.service.workers.up > 0, f"{up} of {devices} devices")
        return Readiness(True, "the golden texts give the vectors of the checkpoint")

    def add_preparation(self, prepare: Callable[[ModelService], None]) -> None:
        """Register a function that prepares a new service before it answers requests."""
        self._preparations.append(prepare)

    def prepare(self, service: ModelService) -> None:
        """Run all preparations for a new service, in any thread. Call `replace_service` afterwards."""
        for prepare in self._preparations:
            prepare(service)

    def replace_service(self, service: ModelService) -> ModelService:
        """Answer new requests with `service`. Return the previous service, which may still have running requests."""
        before, self.service = self.service, service
        self.metrics.set_build_info(service.build_info)
        self._service_replaced.set()
        return before

    async def run_background_tasks(self) -> None:
        """Run the background tasks of the current service, also after a reload, until cancelled."""
        while True:
            self._service_replaced.clear()
            running = asyncio.create_task(self.service.background.run())
            try:
                await self._service_replaced.wait()
            finally:
                running.cancel()
                await asyncio.wait([running])

    def close(self) -> None:
        self.service.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _register_metrics(self) -> None:
        self.metrics.set_build_info(self.service.build_info)
        self.metrics.queue_texts.set_function(self._waiting)
        for lane in Priority:
            self.metrics.queue_age.labels(lane).set_function(partial(self._age, lane))
        self.metrics.permits.set_function(lambda: sum(each.inside for each in self.admissions))
        self.metrics.ready.set_function(lambda: self.readiness.ready)
        for gauge, read in self.metrics.index.items():
            gauge.set_function(partial(self._index_size, read))
        self.registry.register(MonitorCollector(self._status))
        self.registry.register(DevicesCollector(lambda: [model.workers for model in self.service.models]))
        ProcessCollector(registry=self.registry)

    # These read self.service at each scrape, because a reload replaces it.
    def _waiting(self) -> int:
        return sum(model.workers.waiting() for model in self.service.models)

    def _index_size(self, read: Callable[[IndexSize], int]) -> int:
        collection = self.service.collection
        return read(collection.backend.size) if collection else 0

    def _age(self, lane: Priority) -> float:
        return max(model.workers.oldest_wait_seconds(lane) for model in self.service.models)

    def _status(self) -> MonitorStatus:
        return self.service.monitor.report()
