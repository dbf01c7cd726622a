"""Requests on their way through the streams: what each is owed, what became of a batch, and how it is handed out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from embedship.batches import BatchLayout
from embedship.codes import Vectors
from embedship.serve.batching.retry import BatchJob
from embedship.serve.errors import EngineFailed
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.serve.telemetry.request_context import Priority


class PendingRequest:
    """One request's claim on its vectors. Only the event loop writes to it."""

    __slots__ = ("began", "born", "counted", "future", "lane", "missing", "request_id", "vectors")

    def __init__(
        self,
        texts: int,
        dimension: int,
        future: asyncio.Future[Vectors],
        counted: bool = True,
        lane: Priority = Priority.INTERACTIVE,
        request_id: str | None = None,
    ) -> None:
        self.future = future
        self.counted = counted  # no for the monitor's own texts: the metrics are about users
        self.lane = lane
        self.request_id = request_id  # None for the monitor's own
        self.vectors: Vectors = np.empty((texts, dimension), dtype=np.float32)
        self.missing = texts
        self.born = time.perf_counter()
        self.began: float | None = None  # when its first batch did; known once that is over

    @property
    def cancelled(self) -> bool:
        return self.future.done()

    def fail(self, error: EngineFailed) -> None:
        if not self.cancelled:
            self.future.set_exception(error)

    def set_row(self, row: int, vector: Vectors) -> None:
        """Write one (dim,) row; the last one that is missing answers the request."""
        if self.cancelled:
            return
        self.vectors[row] = vector
        self.missing -= 1
        if not self.missing:
            self.future.set_result(self.vectors)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a piece in the end: vectors in its order, or the error of its one text."""

    piece: BatchJob[PendingRequest]
    result: Vectors | EngineFailed
    device: str
    began: float
    seconds: float


class ResultRouter:
    """Hands outcomes out, and counts the users' share of them. Used from the event loop only."""

    def __init__(self, counts: ModelMetrics, devices: Iterable[str], layout: BatchLayout) -> None:
        self._counts = counts
        self.layout = layout
        self._inference = {device: counts.inference.labels(device) for device in devices}

    def deliver(self, outcome: BatchResult) -> None:
        for place, work in enumerate(outcome.piece.works):
            if isinstance(outcome.result, EngineFailed):
                work.owner.fail(outcome.result)
            else:
                work.owner.set_row(work.row, outcome.result[place])
        self._began(outcome)
        self._count(outcome)

    def _count(self, outcome: BatchResult) -> None:
        """The users' share of the batch; nothing of one that was all the monitor's."""
        works = [work for work in outcome.piece.works if work.owner.counted]
        if not works:
            return
        lengths = [len(work.ids) for work in works]
        every = outcome.piece.works
        shape = self.layout.shape(len(every), max(len(work.ids) for work in every))
        tokens = sum(lengths)
        # Without a shape the batch was computed in parts, each of them padded less.
        padded = shape.rows * shape.width * len(lengths) // len(every) if shape else tokens
        self._counts.batches.observe(len(lengths))
        self._counts.batch_tokens.observe(padded)
        self._counts.padding.observe(1 - tokens / padded)
        self._inference[outcome.device].observe(outcome.seconds)
        self._counts.texts.inc(len(lengths))
        self._counts.tokens.inc(tokens)
        self._counts.padded_tokens.inc(padded)

    def _began(self, outcome: BatchResult) -> None:
        for work in outcome.piece.works:
            ticket = work.owner
            if ticket.began is None:
                ticket.began = max(outcome.began, ticket.born)
                if ticket.counted:
                    self._counts.queue_seconds[ticket.lane].observe(ticket.began - ticket.born)
