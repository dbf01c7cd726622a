"""The devices' streams: a thread each takes the next batch, runs it, and hands the vectors back to the event loop."""

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
    """`encode` is called on the event loop; the threads touch nothing but the seats, their device and the outcome."""

    def __init__(
        self,
        devices: Sequence[ServingDevice],
        dimension: int,
        layout: BatchLayout,
        lanes: PriorityQueue[PendingRequest],
        counts: ModelMetrics,
    ) -> None:
        self.devices = tuple(device.name for device in devices)
        self.retried = 0  # batches whose device died, tried again
        self.split = 0  # batches taken apart, because they failed or two devices died with them
        self.table = tuple(devices)
        self._dimension = dimension
        self._layout = layout
        self._counting = Lock()
        self._delivery = ResultRouter(counts, self.devices, layout)
        self._wrong = counts.wrong_shapes
        self._wrong.set(len(layout.wrong))
        self._seats: BatchDispatcher[PendingRequest] = BatchDispatcher(devices, lanes)
        self._threads = [
            Thread(target=self._run, args=(device,), name=device.name, daemon=True)
            for device in devices
            for _ in range(device.streams)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether no stream has ended, and none hangs that only a restart of this process could free."""
        return all(thread.is_alive() for thread in self._threads) and not any(each.stuck for each in self.table)

    @property
    def up(self) -> int:
        """Devices that take batches now."""
        return sum(device.up for device in self.table)

    def waiting(self) -> int:
        return len(self._seats)

    def oldest_wait_seconds(self, lane: Priority) -> float:
        """Seconds that the oldest text of this lane has waited; 0 if none does."""
        now = time.perf_counter()
        return max((now - ticket.born for ticket in self._seats.oldest() if ticket.lane is lane), default=0.0)

    async def encode(self, permit: QueuePermit, tokens: TokenBatch, lane: Priority, *, counted: bool = True) -> Vectors:
        """Return (n, dim) float32 rows in the order of tokens. Raises EngineFailed.

        When the caller is cancelled, its texts that are not yet in a batch are dropped before they cost anything.
        """
        assert permit.texts == len(tokens), "a permit admits exactly its own texts"
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        visit = current_request.get()
        ticket = PendingRequest(len(tokens), self._dimension, future, counted, lane, visit.id if visit else None)
        turns = tokens.turns or repeat(0)
        works = [
            QueuedText(ticket, row, ids, turn) for row, (ids, turn) in enumerate(zip(tokens.ids, turns, strict=False))
        ]
        if not self._seats.put(lane, works):
            raise EngineFailed("The server is stopping.")
        try:
            return await future
        finally:
            end_phase(RequestPhase.QUEUE, ticket.began)
            if ticket.began is not None:
                end_phase(RequestPhase.INFERENCE)

    @property
    def layout(self) -> BatchLayout:
        return self._layout

    def exclude(self, shapes: Sequence[PaddedShape]) -> None:
        """Use these shapes of batches no more. Called on the event loop."""
        self._layout = self._layout.without(shapes)
        self._delivery.layout = self._layout
        self._wrong.set(len(self._layout.wrong))

    async def encode_on(self, device: str, tokens: TokenBatch) -> Vectors:
        """Return (n, dim) float32 of these texts, which make one batch alone, on one of `devices`. Raises EngineFailed.

        Without a permit, for a queue full of requests says nothing about the device; one batch a device at a time.
        """
        ticket = PendingRequest(len(tokens), self._dimension, asyncio.get_running_loop().create_future(), counted=False)
        turns = tokens.turns or [0] * len(tokens)
        works = [QueuedText(ticket, row, *each) for row, each in enumerate(zip(tokens.ids, turns, strict=True))]
        if not self._seats.put_pinned(device, *works):
            raise EngineFailed("The server is stopping." if self._seats.closed else f"Device {device} is down.")
        return await ticket.future

    def close(self) -> None:
        """Finish the batches that run, and no others."""
        self._seats.close()
        for thread in self._threads:
            thread.join()

    def _run(self, device: ServingDevice) -> None:
        while piece := self._seats.next_batch(device.name):
            try:
                self._try(device, piece)
            finally:
                self._seats.done(device.name, piece)

    def _try(self, device: ServingDevice, piece: BatchJob[PendingRequest]) -> None:
        began = time.perf_counter()
        try:
            turns = [work.turn for work in piece.works]
            vectors = self._layout.encode(device.encode, [work.ids for work in piece.works], turns)
            self._deliver(device, piece, self._checked(vectors, len(piece.works)), began)
        except DeviceDown as down:
            # It never saw the batch: nothing is held against it.
            self._retry_or_fail(device, piece, () if piece.errand else (piece,), down, began)
        except DeviceLost as lost:
            self._retry_or_fail(device, piece, jobs_after_device_loss(piece), lost, began)
        except EngineError as failure:
            self._retry_or_fail(device, piece, jobs_after_error(piece), failure, began)
        except Exception as bug:
            # Whatever it is, somebody waits for this batch, and this thread must live to take the next.
            logger.exception("a batch of %d texts failed", len(piece.works), extra=_request_ids(piece))
            self._retry_or_fail(device, piece, jobs_after_error(piece), bug, began)

    def _retry_or_fail(
        self,
        device: ServingDevice,
        piece: BatchJob[PendingRequest],
        pieces: Sequence[BatchJob[PendingRequest]],
        error: Exception,
        began: float,
    ) -> None:
        """Try `pieces` instead, or say that it failed."""
        told = _request_ids(piece)
        logger.error("%s; %d texts, tried again in %d pieces", error, len(piece.works), len(pieces), extra=told)
        if not pieces:
            self._deliver(device, piece, EngineFailed(_FAILURE_MESSAGES.get(type(error), _FAILED)), began)
            return
        with self._counting:
            self.split += len(pieces) > 1
            self.retried += len(pieces) == 1
        self._seats.requeue(pieces)

    def _deliver(
        self, device: ServingDevice, piece: BatchJob[PendingRequest], result: Vectors | EngineFailed, began: float
    ) -> None:
        outcome = BatchResult(piece, result, device.name, began, time.perf_counter() - began)
        try:
            piece.works[0].owner.future.get_loop().call_soon_threadsafe(self._delivery.deliver, outcome)
        except RuntimeError:
            logger.warning("the event loop ended before a batch of %d texts did", len(piece.works))

    def _checked(self, vectors: Vectors, texts: int) -> Vectors:
        """JSON has no NaN, and a client could not tell a wrong vector from a right one."""
        if vectors.shape != (texts, self._dimension):
            raise EngineError(f"the engine returned {vectors.shape} for {texts} texts of {self._dimension} dimensions")
        if not np.isfinite(vectors).all():
            raise EngineError(f"the engine returned NaN or infinity in a batch of {texts}")
        return vectors


def _request_ids(piece: BatchJob[PendingRequest]) -> dict[str, list[str]]:
    """Whose texts these are, for the log: the first of them, for a batch may hold many."""
    known = {work.owner.request_id: None for work in piece.works if work.owner.request_id}
    return {REQUESTS: list(known)[:_MAX_LOGGED_IDS]}


_MAX_LOGGED_IDS = 8
_FAILED = "The server failed on the batch of this request; its log says why."
_FAILURE_MESSAGES: dict[type[Exception], str] = {
    EngineError: "The engine failed on a text of this request, alone; sending it again may help.",
    DeviceLost: "A text of this request, alone, ended the process of a device, and had done so before.",
    DeviceDown: "The device of this text is down.",
}
