"""Background tasks of the monitor: periodic canary checks, searches for labelled queries (probes), and snapshots.

They run on the event loop with lower priority than users: one text at a time, and disk access in a thread.
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

# A probe that is rejected because the queue is full is retried after this time.
RETRY_SECONDS = 1.0

# Interval of checks for labelled documents that were added or deleted. Nothing is checked if the index is unchanged.
LABEL_SECONDS = 10.0


class BackgroundTasks:
    """Runs the periodic tasks until `run` is cancelled. Each task can also be called alone, on the event loop."""

    def __init__(
        self,
        monitor: QualityMonitor,
        targets: Sequence[CanaryTarget],
        pipeline: QueryPipeline,
        *,
        canary_seconds: float = 30.0,
        probe_seconds: float = 600.0,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._monitor = monitor
        self._targets = targets
        self._pipeline = pipeline
        self._canary_seconds = canary_seconds
        self._probe_seconds = probe_seconds
        self._retry_seconds = retry_seconds
        self._counted: IndexSize | None = None  # size of the index when the missing labels were last counted

    async def run(self) -> None:
        """Run all tasks periodically, until cancelled.

        This does not use a TaskGroup. A cancelled TaskGroup is part of a reference cycle (Python 3.11), which kept the
        models of several earlier reloads in memory until the garbage collector ran.
        """
        tasks = [
            asyncio.create_task(self._every(seconds, part, task))
            for seconds, part, task in (
                (self._canary_seconds, MonitorPart.CANARY, self.run_canaries),
                (self._probe_seconds, MonitorPart.PROBE, self.replay_probes),
                (LABEL_SECONDS, MonitorPart.PROBE, self.count_missing_labels),
                (SNAPSHOT_SECONDS, MonitorPart.SNAPSHOT, self.snapshot),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def run_canaries(self) -> None:
        """Encode every canary text on every device, one at a time, and pass the vectors to the monitor."""
        for workers, canaries, walk in self._targets:
            for device in workers.devices:
                try:
                    rows = [await workers.encode_on(device, tokens) for tokens in canaries.tokens]
                    shapes_correct = walk is None or await walk.check_next(workers, device)
                except EngineFailed:
                    self._monitor.canary.record_failure(device)
                    continue
                self._monitor.canary.record_vectors(device, np.concatenate(rows))
                if not shapes_correct:
                    self._monitor.canary.record_failure(device)
        self._monitor.report()  # updates the start times of states even if no client reads /metrics

    async def replay_probes(self) -> None:
        """Search for every probe once. The result counts only if every search succeeds."""
        probes = self._monitor.probes
        if probes is None:
            return
        try:
            scores = {number: await self._score_probe(probes, number) for number in probes.order()}
            await self._count_missing(probes)
        except RequestError as error:
            logger.warning("the search for the labelled queries was aborted: %s", error)
            probes.record_failed_replay()
            return
        probes.record_replay(scores)

    async def count_missing_labels(self) -> None:
        """Count the labels whose document is not in the index, if the index has changed since the last count."""
        probes = self._monitor.probes
        if probes is None or self._pipeline.collection.backend.writable is None:
            return
        size = self._pipeline.collection.backend.size
        if size == self._counted:
            return
        try:
            await self._count_missing(probes)
        except RequestError as error:
            logger.warning("labels without a document could not be counted: %s", error)
            return
        self._counted = size

    async def _count_missing(self, probes: ProbeRecall) -> None:
        known = await self._pipeline.collection.resolve_ids(probes.labels)
        probes.missing = len(probes.labels) - len(known)

    async def snapshot(self) -> None:
        """Save the state of the monitor to its file."""
        state = self._monitor.state_to_save()
        await asyncio.get_running_loop().run_in_executor(None, self._monitor.save, state)

    async def _score_probe(self, probes: ProbeRecall, number: int) -> RecallScore:
        probe = probes.probes[number]
        known = await self._pipeline.collection.resolve_ids(probe.relevant)
        # A label whose document is not in the index can never be found, but still counts as expected.
        relevant = [known.get(each, -2 - place) for place, each in enumerate(probe.relevant)]
        return score(await self._search_with_retry(probe.text), relevant)

    async def _search_with_retry(self, query: str) -> list[int]:
        while True:
            try:
                return await self._pipeline.search_probe(query)
            except Overloaded:
                await asyncio.sleep(self._retry_seconds)

    async def _every(self, seconds: float, part: MonitorPart, task: Callable[[], Awaitable[None]]) -> None:
        """Run `task` immediately, and again every `seconds`. A failure is counted, and the next run follows."""
        while True:
            began = time.monotonic()
            with self._monitor.faults.guard(part):
                await task()
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
