"""Devices that compute batches: the streams of an engine in this process, or one supervised worker process per device.

fleet.py            Opens all devices of a model and checks them with golden texts
hang_detector.py    Compares the duration of forward passes with their time limits
local.py            A device that is one stream of the engine in this process
process.py          The server's side of one worker process
supervision.py      Starts, checks, watches, kills and restarts worker processes
worker_main.py      The program of a worker process
worker_protocol.py  The wire format between the server and a worker process
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
    """The device died while it ran the batch, so the batch may be the cause."""


class DeviceDown(EngineError):
    """The device was down before it received the batch, so the batch is not the cause."""


class ServingDevice(Protocol):
    """An engine with a name and with timed forward passes. It can go down and come up again."""

    name: str
    hang_detector: HangDetector

    @property
    def streams(self) -> int:
        """The number of threads that may call `encode` at the same time."""

    @property
    def precision(self) -> Precision:
        """The numerical precision that the device really uses."""

    @property
    def up(self) -> bool:
        """Whether it accepts batches."""

    @property
    def stuck(self) -> bool:
        """Whether a forward pass hangs, and only a restart of this process can end it."""

    @property
    def restarts(self) -> int:
        """How often its worker process was restarted."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Register a function to call each time `up` has changed. It can be called from any thread."""

    def encode(self, batch: Batch) -> Vectors:
        """Return (n, dim) float32 rows in the order of the batch.

        Raises EngineError if the batch failed, DeviceLost if the device died, DeviceDown if it was down before.
        """

    def close(self) -> None: ...
