"""What computes: the streams of an engine in this process, or a worker process a device, watched and restarted.

fleet.py            All devices of a service, opened and proven
hang_detector.py    The heartbeat of a device
local.py            A stream of the engine in this process
process.py          One worker process, from its start to its death, seen from the server
supervision.py      A device in a process of its own
worker_main.py      The worker process of a device
worker_protocol.py  Batches and vectors as bytes on the way to a worker process and back
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.errors import EngineError
from embedship.serve.devices.hang_detector import HangDetector


class DeviceLost(EngineError):
    """The device died while it had the batch in its hands: the batch may be the cause, and may not."""


class DeviceDown(EngineError):
    """The device was dead before it saw the batch."""


class ServingDevice(Protocol):
    """An Engine with a name and a pulse, which may die and come back."""

    name: str
    pulse: HangDetector

    @property
    def streams(self) -> int:
        """How many threads may call `encode` at once."""

    @property
    def precision(self) -> Precision:
        """The arithmetic it really runs."""

    @property
    def up(self) -> bool:
        """Whether it takes batches."""

    @property
    def stuck(self) -> bool:
        """Whether a forward pass hangs that only the end of this process can end."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called, from any thread, whenever `up` has changed."""

    def encode(self, batch: Batch) -> Vectors:
        """Return (n, dim) float32 rows in the order of the batch.

        Raises EngineError if the batch failed, DeviceLost if the device did, DeviceDown if it had before.
        """

    def close(self) -> None: ...
