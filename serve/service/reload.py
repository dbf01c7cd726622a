"""Reload: replaces the bundle or index of a running server. The new one is opened and verified before the switch.

Until the old service is closed, the process has both models in memory. If anything fails before the switch, the old
service stays in use.
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

from embedship.errors import EmbedshipError, UsageError
from embedship.monitor.errors import MonitorError
from embedship.serve.errors import ReloadFailed, ReloadInProgress
from embedship.serve.search.address import Address
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class ReloadOutcome(StrEnum):
    """Result of a reload: label of embedship_reloads_total."""

    TAKEN = "taken"
    FAILED = "failed"
    REFUSED = "refused"  # another reload was running


class ReloadResult(msgspec.Struct, frozen=True):
    """The service in use after a reload; `before` is the fingerprint of the previous one."""

    fingerprint: str
    variant: str
    before: str  # fingerprint
    seconds: float


class Reloader:
    """Runs reloads, one at a time. Used from the event loop."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._running = False
        self._tasks: set[asyncio.Task[object]] = set()  # references, because asyncio keeps only weak ones
        for result in ReloadOutcome:
            state.metrics.reloads.labels(result)

    @property
    def milvus(self) -> frozenset[str]:
        """Milvus servers and files that were given at startup. A reload may only choose among their collections.

        The Milvus token is sent to the chosen server, and a client with an admin key must not be able to obtain it.
        """
        settings = self._state.settings
        return frozenset(each.uri for each in (settings.index, settings.candidate_index) if isinstance(each, Address))

    async def __call__(
        self, bundle: Path | None = None, index: Path | Address | None = None, *, candidate: bool = False
    ) -> ReloadResult:
        """Replace bundle and index with those at the given paths; a missing path means the current one, read again.

        `candidate`: use the paths of the candidate, and stop comparing it.

        The reload continues if the caller is cancelled. Raises ReloadInProgress, ReloadFailed.
        """
        if candidate and self._state.service.candidate is None:
            raise self._failed("this server has no candidate: start it with --candidate-index")
        if self._running or self._state.drain.draining:
            self._state.metrics.reloads.labels(ReloadOutcome.REFUSED).inc()
            raise ReloadInProgress("The server is stopping." if self._state.drain.draining else _BUSY)
        try:
            following = self._next_settings(bundle, index, candidate)
        except UsageError as error:  # these paths contradict a setting
            raise self._failed(str(error)) from None
        self._running = True
        return await asyncio.shield(self._track_task(self._reload(following)))

    def _next_settings(self, bundle: Path | None, index: Path | Address | None, candidate: bool) -> Settings:
        current = self._state.service.settings
        if candidate:
            bundle, index = current.candidate_bundle, current.candidate_index
        following = replace(current, bundle=bundle or current.bundle, index=index or current.index)
        if candidate or (following.bundle, following.index) == (
            current.candidate_bundle or current.bundle,
            current.candidate_index,
        ):
            return replace(following, candidate_bundle=None, candidate_index=None)
        return following

    def on_sighup(self) -> None:
        """Handle SIGHUP: reload from the current paths, and log the result."""
        self._track_task(self._reload_and_log())

    async def _reload_and_log(self) -> None:
        try:
            await self()
        except ReloadInProgress as error:
            logger.warning("SIGHUP: %s", error)
        except ReloadFailed:
            return  # already logged

    def _track_task(self, work: Awaitable[Result]) -> asyncio.Task[Result]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task), "ensure_future makes a task of a coroutine"
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # already logged; otherwise asyncio logs it as never retrieved

    async def _reload(self, settings: Settings) -> ReloadResult:
        began = time.perf_counter()
        try:
            service = await self._open(settings)
        except (EmbedshipError, MonitorError, OSError) as error:
            raise self._failed(str(error)) from error
        except Exception:
            logger.exception("a reload failed")
            raise self._failed(
                "the server failed while it opened the new bundle or index; the reason is in its log"
            ) from None
        finally:
            self._running = False
        before = self._state.replace_service(service)
        self._track_task(_close_when_idle(before))
        result = ReloadResult(
            service.bundle.fingerprint,
            service.encoder.variant.name,
            before.bundle.fingerprint,
            time.perf_counter() - began,
        )
        self._state.metrics.reloads.labels(ReloadOutcome.TAKEN).inc()
        logger.info(
            "reloaded in %.1f s: fingerprint %s, variant %s", result.seconds, result.fingerprint, result.variant
        )
        return result

    async def _open(self, settings: Settings) -> ModelService:
        current = self._state.service
        await current.background.snapshot()  # the new monitor continues from this state, if there is a --state-dir
        opening = asyncio.get_running_loop().run_in_executor(None, self._open_verified, settings, current)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)  # the server stops: close the service if it opens too late
            raise

    def _open_verified(self, settings: Settings, current: ModelService) -> ModelService:
        """Return a service that is ready to answer."""
        state = self._state
        service = ModelService.open(settings, state.admissions, state.metrics, current=current)
        try:
            state.prepare(service)
        except BaseException:
            service.close()
            raise
        return service

    def _failed(self, reason: str) -> ReloadFailed:
        fingerprint = self._state.service.bundle.fingerprint
        self._state.metrics.reloads.labels(ReloadOutcome.FAILED).inc()
        logger.error("reload failed, %s stays in use: %s", fingerprint[:12], reason)
        return ReloadFailed(f"The reload failed, {fingerprint[:12]} stays in use: {reason}")


_BUSY = "A reload is already running: wait until it ends. GET /info shows the current bundle."


async def _close_when_idle(service: ModelService) -> None:
    """Close a replaced service after its last request. Its monitor stops saving: the new one has its state."""
    service.monitor.stop_saving()
    await service.wait_until_idle()
    await asyncio.get_running_loop().run_in_executor(None, service.close)


def _close(opening: asyncio.Future[ModelService]) -> None:
    if not opening.cancelled() and not opening.exception():
        opening.result().close()
