"""The interface that every engine implements."""

from __future__ import annotations

from typing import Protocol

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors


class Engine(Protocol):
    @property
    def streams(self) -> int:
        """How many threads may call `encode` at once and each get a core."""

    @property
    def precision(self) -> Precision:
        """The arithmetic this machine really runs."""

    def encode(self, batch: Batch) -> Vectors:
        """Return (n, dim) float32 rows in the order of the batch; unit rows if the pipeline normalises.

        A re-ranker's have one column, the score.

        Thread-safe. Raises EngineError if the runtime fails; nothing is retried here.
        """

    def close(self) -> None: ...
