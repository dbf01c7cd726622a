"""In-flight requests, the results of batches, and the code that routes these results back to the requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from embedship.batches import BatchLayout
from embedship.codes import Vectors
from embedship.serve.batching.admission import QueuePermit
from embedship.serve.batching.retry import BatchJob
from embedship.serve.errors import EngineFailed
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.serve.telemetry.request_context import Priority


class PendingRequest:
    """A request that waits for its vectors. Only the event loop writes to it."""

    __slots__ = ("counted", "future", "lane", "missing", "permit", "queued_at", "request_id", "started_at", "vectors")

    def __init__(
        self,
        texts: int,
        dimension: int,
        future: asyncio.Future[Vectors],
        counted: bool = True,
        lane: Priority = Priority.INTERACTIVE,
        request_id: str | None = None,
        permit: QueuePermit | None = None,
    ) -> None:
        self.future = future
        self.counted = counted  # False for the monitor's own texts, because the metrics describe users
        self.lane = lane
        self.request_id = request_id  # None for the monitor's own texts
        self.permit = permit  # None for texts that need no permit
        self.vectors: Vectors = np.empty((texts, dimension), dtype=np.float32)
        self.missing = texts
        self.queued_at = time.perf_counter()
        self.started_at: float | None = None  # when its first batch started; set once that batch is finished

    @property
    def cancelled(self) -> bool:
        """Whether the request has ended, so that its texts need not be computed."""
        return self.future.done()

    def fail(self, error: EngineFailed) -> None:
        """Fail the request, unless it has already ended."""
        if not self.cancelled:
            self.future.set_exception(error)

    def set_row(self, row: int, vector: Vectors) -> None:
        """Store one (dim,) row. The last missing row completes the future of the request."""
        if self.permit:
            self.permit.record_finished(1)
        if self.cancelled:
            return
        self.vectors[row] = vector
        self.missing -= 1
        if not self.missing:
            self.future.set_result(self.vectors)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The final result of a batch: vectors (n, dim), row i for text i of the job, or the error for all its texts."""

    job: BatchJob[PendingRequest]
    result: Vectors | EngineFailed
    device: str
    started_at: float
    seconds: float


class ResultRouter:
    """Delivers batch results to their requests, and counts the texts of users. Use it from the event loop only."""

    def __init__(self, counts: ModelMetrics, devices: Iterable[str], layout: BatchLayout) -> None:
        self._counts = counts
        self.layout = layout
        self._inference = {device: counts.inference.labels(device) for device in devices}

    def deliver(self, outcome: BatchResult) -> None:
        """Store the vectors of a batch in its requests, or fail them, and count the batch."""
        for place, text in enumerate(outcome.job.texts):
            if isinstance(outcome.result, EngineFailed):
                text.request.fail(outcome.result)
            else:
                text.request.set_row(text.row, outcome.result[place])
        self._record_start(outcome)
        self._count(outcome)

    def _count(self, outcome: BatchResult) -> None:
        """Count the texts of users in the batch. A batch with only monitor texts is not counted."""
        texts = [text for text in outcome.job.texts if text.request.counted]
        if not texts:
            return
        lengths = [len(text.ids) for text in texts]
        every = outcome.job.texts
        shape = self.layout.shape(len(every), max(len(text.ids) for text in every))
        tokens = sum(lengths)
        # Without a shape the batch was computed in several parts, which were padded less.
        padded = shape.rows * shape.width * len(lengths) // len(every) if shape else tokens
        self._counts.batches.observe(len(lengths))
        self._counts.batch_tokens.observe(padded)
        self._counts.padding.observe(1 - tokens / padded)
        self._inference[outcome.device].observe(outcome.seconds)
        self._counts.texts.inc(len(lengths))
        self._counts.tokens.inc(tokens)
        self._counts.padded_tokens.inc(padded)

    def _record_start(self, outcome: BatchResult) -> None:
        for text in outcome.job.texts:
            request = text.request
            if request.started_at is None:
                request.started_at = max(outcome.started_at, request.queued_at)
                if request.counted:
                    self._counts.queue_seconds[request.lane].observe(request.started_at - request.queued_at)
