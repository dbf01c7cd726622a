"""A device that is one stream of the engine in this process. If it hangs, only a restart of the process helps."""

from __future__ import annotations

from collections.abc import Callable

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.engine.protocol import Engine
from embedship.serve.devices.hang_detector import HangDetector


class LocalDevice:
    """One stream. All streams share the engine, and the code that opened the engine closes it."""

    streams = 1
    restarts = 0

    def __init__(self, name: str, engine: Engine, hang_detector: HangDetector) -> None:
        self.name = name
        self.hang_detector = hang_detector
        self._engine = engine

    @property
    def precision(self) -> Precision:
        return self._engine.precision

    @property
    def up(self) -> bool:
        return not self.stuck

    @property
    def stuck(self) -> bool:
        return self.hang_detector.stalled_seconds() is not None

    def watch(self, changed: Callable[[], None]) -> None:
        """Do nothing: a hanging stream requests no batches, and requests the next one itself once it continues."""

    def encode(self, batch: Batch) -> Vectors:
        with self.hang_detector.timed_pass(batch.input_ids.size):
            return self._engine.encode(batch)

    def close(self) -> None: ...
