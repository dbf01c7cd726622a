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
from embedship.monitor.monitor import Status
from embedship.serve.api_keys import ADMIN, WRITE, Keys
from embedship.serve.batching.admission import Admission
from embedship.serve.batching.device_metrics import DevicesCollector
from embedship.serve.index import Size
from embedship.serve.schemas import Readiness
from embedship.serve.service.drain import Drain
from embedship.serve.service.service import Admissions, Service
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import Metrics
from embedship.serve.telemetry.request_context import Lane


class House:
    """`service` changes hands on the event loop only: whoever answers a request reads it once and keeps to that one."""

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        keys: Keys,
        admin: Keys,
        writers: Keys,
        encoder: Encoder | None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.keys = keys
        self.admin = admin
        self.writers = writers | admin
        self.metrics = Metrics(registry, reranks=settings.reranker is not None)
        self.admissions = Admissions(Admission(settings.queue_texts), Admission(settings.queue_texts))
        self.drain = Drain(settings.drain_seconds)
        self.service = Service.open(settings, self.admissions, self.metrics, encoder)
        self._preparations: list[Callable[[Service], None]] = []
        self._swapped = asyncio.Event()
        self._show()

    @classmethod
    def open(
        cls, settings: Settings, registry: CollectorRegistry | None = None, encoder: Encoder | None = None
    ) -> Self:
        """Raises what Service.open does, and UsageError for keys that are none."""
        keys = Keys.open(settings.api_key_file)
        admin = Keys.open(settings.admin_key_file, purpose=ADMIN)
        writers = Keys.open(settings.write_key_file, purpose=WRITE)
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

    def prepared_by(self, prepare: Callable[[Service], None]) -> None:
        """Register what must be made of a service before it answers."""
        self._preparations.append(prepare)

    def prepare(self, service: Service) -> None:
        """Make all that a service needs to answer at once; may run in any thread. `swap` follows."""
        for prepare in self._preparations:
            prepare(service)

    def swap(self, service: Service) -> Service:
        """The next request is answered by `service`. Returns the one before, which may still be answering."""
        before, self.service = self.service, service
        self.metrics.runs(service.build)
        self._swapped.set()
        return before

    async def rounds(self) -> None:
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

    def _show(self) -> None:
        self.metrics.runs(self.service.build)
        self.metrics.queue_texts.set_function(self._waiting)
        for lane in Lane:
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

    def _index_size(self, of: Callable[[Size], int]) -> int:
        shelf = self.service.shelf
        return of(shelf.store.size) if shelf else 0

    def _age(self, lane: Lane) -> float:
        return max(model.workers.age(lane) for model in self.service.models)

    def _status(self) -> Status:
        return self.service.watch.report()
