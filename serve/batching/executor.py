"""Executor: one thread per device stream takes the next batch, runs it, and hands the vectors to the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from itertools import repeat
from threading import Lock, Thread

import numpy as np

from embedship.batches import BatchLayout, PaddedShape
from embedship.codes import Vectors
from embedship.errors import EngineError
from embedship.serve.batching.admission import QueuePermit
from embedship.serve.batching.dispatcher import BatchDispatcher
from embedship.serve.batching.pending import BatchResult, PendingRequest, ResultRouter
from embedship.serve.batching.priority_queue import PriorityQueue, QueuedText
from embedship.serve.batching.retry import BatchJob, jobs_after_device_loss, jobs_after_error
from embedship.serve.devices import DeviceDown, DeviceLost, ServingDevice
from embedship.serve.errors import EngineFailed
from embedship.serve.telemetry.logs import REQUESTS
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.serve.telemetry.request_context import Priority, RequestPhase, current_request, end_phase
from embedship.tokens import TokenBatch

logger = logging.getLogger(__name__)


class BatchExecutor:
    """Runs the batches of one model on its devices.

    Call `encode` on the event loop. The threads use only the dispatcher, their device and the batch result.
    """

    def __init__(
        self,
        devices: Sequence[ServingDevice],
        dimension: int,
        layout: BatchLayout,
        queue: PriorityQueue[PendingRequest],
        counts: ModelMetrics,
    ) -> None:
        self.devices = tuple(device.name for device in devices)
        self.retried = 0  # batches that were retried because their device died
        self.split = 0  # batches that were split because they failed, or because two devices died with them
        self.serving_devices = tuple(devices)
        self._dimension = dimension
        self._layout = layout
        self._counting = Lock()
        self._router = ResultRouter(counts, self.devices, layout)
        self._excluded_shapes = counts.wrong_shapes
        self._excluded_shapes.set(len(layout.wrong))
        self._dispatcher: BatchDispatcher[PendingRequest] = BatchDispatcher(devices, queue)
        self._threads = [
            Thread(target=self._run, args=(device,), name=device.name, daemon=True)
            for device in devices
            for _ in range(device.streams)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether all streams still run, and no device is stuck until this process restarts."""
        return all(thread.is_alive() for thread in self._threads) and not any(
            each.stuck for each in self.serving_devices
        )

    @property
    def up(self) -> int:
        """The number of devices that accept batches now."""
        return sum(device.up for device in self.serving_devices)

    def waiting(self) -> int:
        """Return the number of queued texts."""
        return len(self._dispatcher)

    def oldest_wait_seconds(self, lane: Priority) -> float:
        """Return how many seconds the oldest text of this lane has waited; 0 if none waits."""
        now = time.perf_counter()
        return max(
            (now - request.queued_at for request in self._dispatcher.oldest() if request.lane is lane), default=0.0
        )

    async def encode(self, permit: QueuePermit, tokens: TokenBatch, lane: Priority, *, counted: bool = True) -> Vectors:
        """Return (n, dim) float32 rows in the order of `tokens`. Raises EngineFailed.

        If the caller is cancelled, its texts that are not yet in a batch are dropped and not computed.
        """
        assert permit.texts == len(tokens), "a permit admits exactly its own texts"
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        context = current_request.get()
        request_id = context.id if context else None
        request = PendingRequest(len(tokens), self._dimension, future, counted, lane, request_id, permit)
        turns = tokens.turns or repeat(0)
        texts = [
            QueuedText(request, row, ids, turn) for row, (ids, turn) in enumerate(zip(tokens.ids, turns, strict=False))
        ]
        if not self._dispatcher.put(lane, texts):
            raise EngineFailed("The server is stopping.")
        try:
            return await future
        finally:
            end_phase(RequestPhase.QUEUE, request.started_at)
            if request.started_at is not None:
                end_phase(RequestPhase.INFERENCE)

    @property
    def layout(self) -> BatchLayout:
        return self._layout

    def exclude(self, shapes: Sequence[PaddedShape]) -> None:
        """Stop using these batch shapes. Call it on the event loop."""
        self._layout = self._layout.without(shapes)
        self._router.layout = self._layout
        self._excluded_shapes.set(len(self._layout.wrong))

    async def encode_on(self, device: str, tokens: TokenBatch) -> Vectors:
        """Return (n, dim) float32 rows of these texts, computed as one batch on the given device. Raises EngineFailed.

        `device` is one of `devices`. No permit is needed, so that a device can be checked while the queue is full.
        Run at most one such batch per device at a time.
        """
        request = PendingRequest(
            len(tokens), self._dimension, asyncio.get_running_loop().create_future(), counted=False
        )
        turns = tokens.turns or [0] * len(tokens)
        texts = [QueuedText(request, row, *each) for row, each in enumerate(zip(tokens.ids, turns, strict=True))]
        if not self._dispatcher.put_pinned(device, *texts):
            raise EngineFailed("The server is stopping." if self._dispatcher.closed else f"Device {device} is down.")
        return await request.future

    def close(self) -> None:
        """Finish the batches that run now, start no others, and end the threads."""
        self._dispatcher.close()
        for thread in self._threads:
            thread.join()

    def _run(self, device: ServingDevice) -> None:
        while job := self._dispatcher.next_batch(device.name):
            try:
                self._try(device, job)
            finally:
                self._dispatcher.done(device.name, job)

    def _try(self, device: ServingDevice, job: BatchJob[PendingRequest]) -> None:
        started_at = time.perf_counter()
        try:
            turns = [text.turn for text in job.texts]
            vectors = self._layout.encode(device.encode, [text.ids for text in job.texts], turns)
            self._deliver(device, job, self._require_valid(vectors, len(job.texts)), started_at)
        except DeviceDown as down:
            # The device was down before it read the batch, so this does not count as a loss caused by the batch.
            self._retry_or_fail(device, job, () if job.pinned_to else (job,), down, started_at)
        except DeviceLost as lost:
            self._retry_or_fail(device, job, jobs_after_device_loss(job), lost, started_at)
        except EngineError as failure:
            self._retry_or_fail(device, job, jobs_after_error(job), failure, started_at)
        except Exception as bug:
            # A bug must not end this thread: requests wait for this batch, and the next batch needs the thread.
            logger.exception("a batch of %d texts failed", len(job.texts), extra=_request_ids(job))
            self._retry_or_fail(device, job, jobs_after_error(job), bug, started_at)

    def _retry_or_fail(
        self,
        device: ServingDevice,
        job: BatchJob[PendingRequest],
        jobs: Sequence[BatchJob[PendingRequest]],
        error: Exception,
        started_at: float,
    ) -> None:
        """Requeue `jobs` in place of `job`; if there are none, fail the requests of `job`."""
        request_ids = _request_ids(job)
        logger.error(
            "%s; batch of %d texts, retried as %d batches", error, len(job.texts), len(jobs), extra=request_ids
        )
        if not jobs:
            self._deliver(device, job, EngineFailed(_FAILURE_MESSAGES.get(type(error), _FAILED)), started_at)
            return
        with self._counting:
            self.split += len(jobs) > 1
            self.retried += len(jobs) == 1
        self._dispatcher.requeue(jobs)

    def _deliver(
        self, device: ServingDevice, job: BatchJob[PendingRequest], result: Vectors | EngineFailed, started_at: float
    ) -> None:
        outcome = BatchResult(job, result, device.name, started_at, time.perf_counter() - started_at)
        try:
            job.texts[0].request.future.get_loop().call_soon_threadsafe(self._router.deliver, outcome)
        except RuntimeError:
            logger.warning("the event loop ended before a batch of %d texts was finished", len(job.texts))

    def _require_valid(self, vectors: Vectors, texts: int) -> Vectors:
        """Return the vectors. Raise EngineError for a wrong shape, NaN or infinity.

        JSON has no NaN, and a client cannot tell a wrong vector from a right one.
        """
        if vectors.shape != (texts, self._dimension):
            raise EngineError(
                f"the engine returned shape {vectors.shape} for {texts} texts of {self._dimension} dimensions"
            )
        if not np.isfinite(vectors).all():
            raise EngineError(f"the engine returned NaN or infinity in a batch of {texts} texts")
        return vectors


def _request_ids(job: BatchJob[PendingRequest]) -> dict[str, list[str]]:
    """Return the log fields with the request ids of a batch: at most _MAX_LOGGED_IDS, because there may be many."""
    known = {text.request.request_id: None for text in job.texts if text.request.request_id}
    return {REQUESTS: list(known)[:_MAX_LOGGED_IDS]}


_MAX_LOGGED_IDS = 8
_FAILED = "The server failed on the batch of this request; the server log has the reason."
_FAILURE_MESSAGES: dict[type[Exception], str] = {
    EngineError: "The engine failed on one text of this request, also alone in a batch. Sending it again may help.",
    DeviceLost: "One text of this request stopped the process of a device repeatedly, also alone in a batch.",
    DeviceDown: "The device for this text is down.",
}
