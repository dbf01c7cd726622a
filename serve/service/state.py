"""What lives as long as the server, and the service that answers in it now."""

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
    """`service` changes hands on the event loop only: whoever answers a request reads it once and keeps to that one."""

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
        self._swapped = asyncio.Event()
        self._register_metrics()

    @classmethod
    def open(
        cls, settings: Settings, registry: CollectorRegistry | None = None, encoder: Encoder | None = None
    ) -> Self:
        """Raises what Service.open does, and UsageError for keys that are none."""
        keys = ApiKeys.open(settings.api_key_file)
        admin = ApiKeys.open(settings.admin_key_file, purpose=ADMIN)
        writers = ApiKeys.open(settings.write_key_file, purpose=WRITE)
        return cls(settings, registry or CollectorRegistry(), keys, admin, writers, encoder)

    @property
    def readiness(self) -> Readiness:
        """Whether to send requests here: while a device that embeds takes batches, and no drain has begun."""
        if self.drain.draining:
            return Readiness(False, "draining")
        workers = [model.workers for model in self.service.models]
        up, devices = sum(each.up for each in workers), sum(len(each.devices) for each in workers)
        if up < devices:
            return Readiness(self.service.workers.up > 0, f"{up} of {devices} devices")
        return Readiness(True, "the golden texts give the vectors of the checkpoint")

    def prepared_by(self, prepare: Callable[[ModelService], None]) -> None:
        """Register what must be made of a service before it answers."""
        self._preparations.append(prepare)

    def prepare(self, service: ModelService) -> None:
        """Make all that a service needs to answer at once; may run in any thread. `replace_service` follows."""
        for prepare in self._preparations:
            prepare(service)

    def replace_service(self, service: ModelService) -> ModelService:
        """The next request is answered by `service`. Returns the one before, which may still be answering."""
        before, self.service = self.service, service
        self.metrics.set_build_info(service.build_info)
        self._swapped.set()
        return before

    async def run_background_tasks(self) -> None:
        """The rounds of the service that answers, whichever it is; until this is cancelled."""
        while True:
            self._swapped.clear()
            running = asyncio.create_task(self.service.rounds.run())
            try:
                await self._swapped.wait()
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
        for gauge, of in self.metrics.index.items():
            gauge.set_function(partial(self._index_size, of))
        self.registry.register(MonitorCollector(self._status))
        self.registry.register(DevicesCollector(lambda: [model.workers for model in self.service.models]))
        ProcessCollector(registry=self.registry)

    # Methods, and not those of the service themselves: a scrape after a swap must read the other one.
    def _waiting(self) -> int:
        return sum(model.workers.waiting() for model in self.service.models)

    def _index_size(self, of: Callable[[IndexSize], int]) -> int:
        shelf = self.service.shelf
        return of(shelf.store.size) if shelf else 0

    def _age(self, lane: Priority) -> float:
        return max(model.workers.oldest_wait_seconds(lane) for model in self.service.models)

    def _status(self) -> MonitorStatus:
        return self.service.watch.report()
