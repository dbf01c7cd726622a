"""A stream of the engine in this process. It cannot die alone; if it hangs, only the end of the process helps."""

from __future__ import annotations

from collections.abc import Callable

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.engine.protocol import Engine
from embedship.serve.devices.hang_detector import HangDetector


class LocalDevice:
    """Streams share the engine, and whoever opened it closes it."""

    streams = 1
    restarts = 0

    def __init__(self, name: str, engine: Engine, pulse: HangDetector) -> None:
        self.name = name
        self.pulse = pulse
        self._engine = engine

    @property
    def precision(self) -> Precision:
        return self._engine.precision

    @property
    def up(self) -> bool:
        return not self.stuck

    @property
    def stuck(self) -> bool:
        return self.pulse.stalled() is not None

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing to tell: while this stream hangs it asks for no work, and when it goes on it asks by itself."""

    def encode(self, batch: Batch) -> Vectors:
        with self.pulse.timed_pass(batch.input_ids.size):
            return self._engine.encode(batch)

    def close(self) -> None: ...
