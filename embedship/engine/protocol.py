"""Engine: the interface that every runtime implements."""

from __future__ import annotations

from typing import Protocol

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors


class Engine(Protocol):
    """Runs one variant of a model on one device."""

    @property
    def streams(self) -> int:
        """How many threads may call `encode` at the same time, each with a core of its own."""

    @property
    def precision(self) -> Precision:
        """The arithmetic that this machine uses."""

    def encode(self, batch: Batch) -> Vectors:
        """Return (n, dim) float32 rows in the order of the batch. They have unit length if the pipeline normalises.

        A re-ranker returns one column, the scores.

        Thread-safe. Raises EngineError if the runtime fails. Nothing is retried here.
        """

    def close(self) -> None:
        """Release the model. If the runtime requires it, wait until the batches in progress are finished."""
