"""A new bundle or index, taken up by a running server: opened beside the old one, proven, and only then swapped in.

While both are open the process holds both models. Whatever goes wrong before the swap leaves the old one answering.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from embedship.errors import EmbedshipError
from embedship.monitor.errors import MonitorError
from embedship.serve.errors import ReloadFailed, ReloadInProgress
from embedship.serve.search.address import Address
from embedship.serve.service import index_trial
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings

logger = logging.getLogger(__name__)

Got = TypeVar("Got")


class ReloadOutcome(StrEnum):
    """Label of embedship_reloads_total."""

    TAKEN = "taken"
    FAILED = "failed"
    REFUSED = "refused"  # one was running


class ReloadResult(msgspec.Struct, frozen=True):
    """What answers now, and what did before."""

    fingerprint: str
    variant: str
    before: str  # fingerprint
    seconds: float


class Reloader:
    """Used from the event loop. One at a time."""

    def __init__(self, house: ServerState) -> None:
        self._house = house
        self._running = False
        self._tasks: set[asyncio.Task[object]] = set()  # a task that nobody holds may be collected
        for result in ReloadOutcome:
            house.metrics.reloads.labels(result)

    @property
    def milvus(self) -> frozenset[str]:
        """The servers and files of Milvus that were named at start: a caller may choose among their collections.

        Milvus' token goes to whichever server is asked, and a holder of an admin key need not know it.
        """
        settings = self._house.settings
        return frozenset(each.uri for each in (settings.index, settings.candidate_index) if isinstance(each, Address))

    async def __call__(
        self, bundle: Path | None = None, index: Path | Address | None = None, *, candidate: bool = False
    ) -> ReloadResult:
        """Take up what lies at these paths; where none is given, at those of the service that answers now.

        `candidate`: at those of its candidate, which is compared no more.

        It goes on when the caller is cancelled. Raises Reloading, NotReloaded.
        """
        if candidate and self._house.service.candidate is None:
            raise self._failed("no candidate is compared: start the server with --candidate-index")
        if self._running or self._house.drain.draining:
            self._house.metrics.reloads.labels(ReloadOutcome.REFUSED).inc()
            raise ReloadInProgress("The server is stopping." if self._house.drain.draining else _BUSY)
        self._running = True
        return await asyncio.shield(self._track_task(self._reload(self._next(bundle, index, candidate))))

    def _next(self, bundle: Path | None, index: Path | Address | None, candidate: bool) -> Settings:
        now = self._house.service.settings
        if candidate:
            bundle, index = now.candidate_bundle, now.candidate_index
        following = replace(now, bundle=bundle or now.bundle, index=index or now.index)
        if candidate or (following.bundle, following.index) == (
            now.candidate_bundle or now.bundle,
            now.candidate_index,
        ):
            return replace(following, candidate_bundle=None, candidate_index=None)
        return following

    def signalled(self) -> None:
        """SIGHUP: as a call without paths, and only the log says what came of it."""
        self._track_task(self._quietly())

    async def _quietly(self) -> None:
        try:
            await self()
        except ReloadInProgress as error:
            logger.warning("SIGHUP: %s", error)
        except ReloadFailed:
            return  # logged where it was raised

    def _track_task(self, work: Awaitable[Got]) -> asyncio.Task[Got]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task), "coroutines become tasks"
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # known and logged; nobody may be left to hear it

    async def _reload(self, settings: Settings) -> ReloadResult:
        began = time.perf_counter()
        try:
            service = await self._open(settings)
        except (EmbedshipError, MonitorError, OSError) as error:
            raise self._failed(str(error)) from error
        except Exception:
            logger.exception("a reload failed")
            raise self._failed("the server failed while it opened the new one; its log says why") from None
        finally:
            self._running = False
        before = self._house.replace_service(service)
        self._track_task(_close_when_idle(before))
        taken = ReloadResult(
            service.bundle.fingerprint,
            service.encoder.variant.name,
            before.bundle.fingerprint,
            time.perf_counter() - began,
        )
        self._house.metrics.reloads.labels(ReloadOutcome.TAKEN).inc()
        logger.info("reloaded in %.1f s: fingerprint %s, variant %s", taken.seconds, taken.fingerprint, taken.variant)
        return taken

    async def _open(self, settings: Settings) -> ModelService:
        now = self._house.service
        await now.rounds.snapshot()  # with a --state-dir the new monitor goes on where this one is
        opening = asyncio.get_running_loop().run_in_executor(None, self._opened, settings, now)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)  # the server ends: what comes too late is closed again
            raise

    def _opened(self, settings: Settings, now: ModelService) -> ModelService:
        """A service that can answer at once. Its index is first read in a child process."""
        if isinstance(settings.index, Path):
            index_trial.demand_readable(settings.bundle, settings.index)
        house = self._house
        service = ModelService.open(settings, house.admissions, house.metrics, None, now.shelf, now.watch)
        try:
            house.prepare(service)
        except BaseException:
            service.close()
            raise
        return service

    def _failed(self, why: str) -> ReloadFailed:
        fingerprint = self._house.service.bundle.fingerprint
        self._house.metrics.reloads.labels(ReloadOutcome.FAILED).inc()
        logger.error("not reloaded, %s goes on: %s", fingerprint[:12], why)
        return ReloadFailed(f"Not reloaded, {fingerprint[:12]} goes on answering: {why}")


_BUSY = "A reload is running already: wait for it, GET /info says what answers."


async def _close_when_idle(service: ModelService) -> None:
    """Close it when its last request has left. Its memory has been taken up by the next: it writes no more."""
    service.watch.stop_saving()
    await service.wait_until_idle()
    await asyncio.get_running_loop().run_in_executor(None, service.close)


def _close(opening: asyncio.Future[ModelService]) -> None:
    if not opening.cancelled() and not opening.exception():
        opening.result().close()
