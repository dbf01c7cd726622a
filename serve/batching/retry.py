"""Retries: selects the next batches after a batch failed or its device died, until only the faulty text fails.

A failed batch is split in half until single texts fail. A batch whose device died is retried once unchanged, alone on a
device, and on another device if there is one. If that device also dies, each text of the batch is retried alone on a
device, because halving would cost one restart per step. A text fails if it was part of a batch with which two devices
died, and a device then dies with this text alone. So one faulty text among n costs 3 device restarts if devices die, or
2 log2(n) batches if batches fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from embedship.serve.batching.priority_queue import QueuedText, RequestT

MAX_DEVICE_LOSSES = 2


@dataclass(frozen=True, slots=True)
class BatchJob(Generic[RequestT]):
    """Texts to compute as one batch, and how many devices have died with them."""

    texts: Sequence[QueuedText[RequestT]]
    device_losses: int = 0
    pinned_to: str | None = None  # the only device that may run it; such a batch is never retried

    @property
    def quarantined(self) -> bool:
        """Whether it must run alone on its device: a death then has one cause, and affects no other batch."""
        return self.device_losses > 0

    @property
    def without_cancelled(self) -> BatchJob[RequestT]:
        """This job without the texts of ended requests, for example because another of their texts has failed."""
        return BatchJob([text for text in self.texts if not text.request.cancelled], self.device_losses, self.pinned_to)


def jobs_after_error(job: BatchJob[RequestT]) -> tuple[BatchJob[RequestT], ...]:
    """Return the batches to run instead of a batch that failed; none if its only text is the cause."""
    texts, middle = job.texts, len(job.texts) // 2
    if not middle or job.pinned_to:
        return ()
    return BatchJob(texts[:middle], job.device_losses), BatchJob(texts[middle:], job.device_losses)


def jobs_after_device_loss(job: BatchJob[RequestT]) -> tuple[BatchJob[RequestT], ...]:
    """Return the batches to run instead of a batch whose device died; none if its only text is the cause."""
    if job.pinned_to:
        return ()
    if job.device_losses + 1 < MAX_DEVICE_LOSSES:
        return (BatchJob(job.texts, job.device_losses + 1),)
    if len(job.texts) == 1:
        return ()
    return tuple(BatchJob([text], job.device_losses) for text in job.texts)
