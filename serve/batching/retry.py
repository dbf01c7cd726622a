"""What is tried next when a batch failed or its device died: bounded, until only the guilty text fails. Pure.

A failed batch is halved until single texts fail. A batch whose device died is tried once more as it is, alone on a
device, elsewhere if there is one; if that one dies, too, its texts are tried one by one, alone on a device each, for
here halving would cost a restart a step. A text that kills a device alone, after it was among those that killed two,
has failed. So one guilty text among n costs 3 devices, or 2 log2(n) batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from embedship.serve.batching.priority_queue import QueuedText, RequestT

DEATHS = 2


@dataclass(frozen=True, slots=True)
class BatchJob(Generic[RequestT]):
    """Texts that are computed together, and how many devices have died with them."""

    works: Sequence[QueuedText[RequestT]]
    deaths: int = 0
    errand: str | None = None  # the one device it is for: tried nowhere else, and never again

    @property
    def quarantined(self) -> bool:
        """It must be alone on its device, so that a death can be blamed on it and hurts nobody else."""
        return self.deaths > 0

    @property
    def without_cancelled(self) -> BatchJob[RequestT]:
        """Without the texts of requests that nobody waits for any more, one of their texts having failed, say."""
        return BatchJob([work for work in self.works if not work.owner.cancelled], self.deaths, self.errand)


def jobs_after_error(piece: BatchJob[RequestT]) -> tuple[BatchJob[RequestT], ...]:
    """What to try instead of a batch that failed; nothing: its one text is at fault."""
    works, middle = piece.works, len(piece.works) // 2
    if not middle or piece.errand:
        return ()
    return BatchJob(works[:middle], piece.deaths), BatchJob(works[middle:], piece.deaths)


def jobs_after_device_loss(piece: BatchJob[RequestT]) -> tuple[BatchJob[RequestT], ...]:
    """What to try instead of a batch that a device died with; nothing: its one text is at fault."""
    if piece.errand:
        return ()
    if piece.deaths + 1 < DEATHS:
        return (BatchJob(piece.works, piece.deaths + 1),)
    if len(piece.works) == 1:
        return ()
    return tuple(BatchJob([work], piece.deaths) for work in piece.works)
