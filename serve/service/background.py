"""What the server does for its monitor on a schedule: canaries on every device, replays of the probes, snapshots.

All of it runs on the event loop, behind the users: one text at a time, and what takes a disk in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from embedship.monitor.failures import MonitorPart
from embedship.monitor.monitor import QualityMonitor
from embedship.monitor.recall.probes import ProbeRecall
from embedship.monitor.recall.score import RecallScore, score
from embedship.serve.errors import EngineFailed, Overloaded, RequestError
from embedship.serve.index import IndexSize
from embedship.serve.service.canaries import CanaryTarget
from embedship.serve.service.query_pipeline import QueryPipeline

logger = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 60.0

# A probe that finds the queue full comes back after this long.
RETRY_SECONDS = 1.0

# Between two looks at whether labelled documents came or went. A look is made only where the index has changed.
LABEL_SECONDS = 10.0


class BackgroundTasks:
    """`run` goes on until it is cancelled; the single rounds may be called by anybody who runs the event loop."""

    def __init__(
        self,
        watch: QualityMonitor,
        choirs: Sequence[CanaryTarget],
        pipeline: QueryPipeline,
        *,
        canary_seconds: float = 30.0,
        probe_seconds: float = 600.0,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._watch = watch
        self._choirs = choirs
        self._pipeline = pipeline
        self._canary_seconds = canary_seconds
        self._probe_seconds = probe_seconds
        self._retry_seconds = retry_seconds
        self._counted: IndexSize | None = None  # of the index, when labels were counted

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(self._canary_seconds, MonitorPart.CANARY, self.run_canaries))
            group.create_task(self._every(self._probe_seconds, MonitorPart.PROBE, self.replay_probes))
            group.create_task(self._every(LABEL_SECONDS, MonitorPart.PROBE, self.labels))
            group.create_task(self._every(SNAPSHOT_SECONDS, MonitorPart.SNAPSHOT, self.snapshot))

    async def run_canaries(self) -> None:
        """Every canary text on every device, one after the other."""
        for workers, songs, walk in self._choirs:
            for device in workers.devices:
                try:
                    rows = [await workers.encode_on(device, tokens) for tokens in songs.tokens]
                    right = walk is None or await walk.on(workers, device)
                except EngineFailed:
                    self._watch.canary.failed(device)
                    continue
                self._watch.canary.saw(device, np.concatenate(rows))
                if not right:
                    self._watch.canary.failed(device)
        self._watch.report()  # so that a beginning is noted, whether or not anybody scrapes

    async def replay_probes(self) -> None:
        """Ask every probe once; a replay with a hole does not count."""
        probes = self._watch.probes
        if probes is None:
            return
        try:
            scores = {number: await self._ask(probes, number) for number in probes.order()}
            await self._count_missing(probes)
        except RequestError as error:
            logger.warning("a replay of the probes was given up: %s", error)
            probes.given_up()
            return
        probes.replayed(scores)

    async def labels(self) -> None:
        """Count the labels without a document again, if documents came or went since."""
        probes = self._watch.probes
        if probes is None or self._pipeline.shelf.store.writable is None:
            return
        size = self._pipeline.shelf.store.size
        if size == self._counted:
            return
        try:
            await self._count_missing(probes)
        except RequestError as error:
            logger.warning("labels without a document were not counted: %s", error)
            return
        self._counted = size

    async def _count_missing(self, probes: ProbeRecall) -> None:
        known = await self._pipeline.shelf.resolve_ids_async(probes.labels)
        probes.missing = len(probes.labels) - len(known)

    async def snapshot(self) -> None:
        remembered = self._watch.state_to_save()
        await asyncio.get_running_loop().run_in_executor(None, self._watch.save, remembered)

    async def _ask(self, probes: ProbeRecall, number: int) -> RecallScore:
        probe = probes.probes[number]
        known = await self._pipeline.shelf.resolve_ids_async(probe.relevant)
        # A label that the index does not hold can never be found, and is expected all the same.
        relevant = [known.get(each, -2 - place) for place, each in enumerate(probe.relevant)]
        return score(await self._search_with_retry(probe.text), relevant)

    async def _search_with_retry(self, query: str) -> list[int]:
        while True:
            try:
                return await self._pipeline.search_probe(query)
            except Overloaded:
                await asyncio.sleep(self._retry_seconds)

    async def _every(self, seconds: float, part: MonitorPart, round: Callable[[], Awaitable[None]]) -> None:
        """Now, and then each `seconds`; a round that fails is counted, and the next one comes."""
        while True:
            began = time.monotonic()
            with self._watch.faults.guard(part):
                await round()
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
