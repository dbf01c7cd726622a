"""All devices of a model, opened and checked with golden texts: engine streams in this process, or worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from embedship import golden, variant_choice
from embedship.batches import Batch, BatchLayout
from embedship.bundle import Bundle, Precision, Variant
from embedship.codes import Vectors
from embedship.device import DeviceAddress, DeviceKind
from embedship.encoder import Encoder
from embedship.engine.device import default_streams
from embedship.engine.protocol import Engine
from embedship.golden import GoldenCheck
from embedship.serve.devices import DeviceDown, ServingDevice
from embedship.serve.devices.hang_detector import HangDetector
from embedship.serve.devices.local import LocalDevice
from embedship.serve.devices.process import WorkerProcess
from embedship.serve.devices.supervision import SupervisedDevice, SupervisedWorker
from embedship.serve.devices.worker_main import WorkerConfig
from embedship.tokens import Tokenizer


class DevicePool:
    """All devices of a model as one Engine. `encode` uses the first device that is up."""

    def __init__(self, devices: Sequence[ServingDevice], checked: GoldenCheck) -> None:
        self.devices = tuple(devices)
        self.checked = checked  # the lowest cosines of all devices

    @property
    def streams(self) -> int:
        return sum(device.streams for device in self.devices)

    @property
    def precision(self) -> Precision:
        return self.devices[0].precision

    def encode(self, batch: Batch) -> Vectors:
        for device in self.devices:
            if device.up:
                return device.encode(batch)
        raise DeviceDown(f"none of {', '.join(device.name for device in self.devices)} is up")

    def close(self) -> None:
        """Close all devices in parallel, because each waits for the end of its process."""
        with ThreadPoolExecutor(len(self.devices)) as pool:
            list(pool.map(lambda device: device.close(), self.devices))


def local(encoder: Encoder, stall_seconds: float, prefix: str = "") -> DevicePool:
    """Return one device per stream of an engine in this process. Raises GateError if a golden check fails.

    The devices are checked at the same time, while all of them compute. Device names begin with `prefix`, which
    separates the devices of two models.
    """
    engine = encoder.engine
    devices = [LocalDevice(f"{prefix}cpu:{i}", engine, HangDetector(stall_seconds)) for i in range(engine.streams)]
    check_engine = _golden_check(encoder.bundle, encoder.variant, encoder.tokenizer, encoder.layout)
    with ThreadPoolExecutor(len(devices)) as pool:
        return DevicePool(devices, _worst(list(pool.map(check_engine, devices))))


def processes(
    bundle: Bundle,
    variant: str | None,
    devices: Sequence[DeviceAddress],
    streams: int | None,
    stall_seconds: float,
    prefix: str = "",
) -> Encoder:
    """Return an Encoder whose engine is a DevicePool of worker processes. Raises the errors of Encoder.open.

    `streams` is the total number of streams. If it is None, workers on CPUs share the cores, and each GPU gets as many
    streams as it can use.
    """
    chosen = variant_choice.variant(bundle, variant)
    bundle.verify(bundle.files_of(chosen))
    tokenizer = Tokenizer.open(bundle)
    each = _streams_per_device(devices, streams)
    check_engine = _golden_check(bundle, chosen, tokenizer)
    with ExitStack() as stack:  # if one worker does not start, the others are closed
        supervised = []
        for device in map(str, devices):
            name, config = prefix + device, WorkerConfig(str(bundle.folder), chosen.name, device, each, os.getpid())
            supervised.append(
                SupervisedDevice(name, each, _launch(name, config), check_engine, HangDetector(stall_seconds))
            )
            stack.callback(supervised[-1].close)
        fleet = DevicePool(supervised, _worst([device.wait_until_open() for device in supervised]))
        stack.pop_all()
    return Encoder(bundle, chosen, tokenizer, fleet, devices[0].kind)


def _streams_per_device(devices: Sequence[DeviceAddress], requested: int | None) -> int:
    """Return the streams per device. `requested` is the total for all devices; None: as many as they can use."""
    total = requested or default_streams(devices[0])
    separate = devices[0].kind is not DeviceKind.CPU and not requested
    return total if separate else max(1, total // len(devices))


def _launch(name: str, config: WorkerConfig) -> Callable[[], SupervisedWorker]:
    return lambda: WorkerProcess(name, config)


def _golden_check(
    bundle: Bundle, variant: Variant, tokenizer: Tokenizer, layout: BatchLayout | None = None
) -> Callable[[Engine], GoldenCheck]:
    """Return a function that checks an engine with golden texts, single and batched, on the code path of requests."""

    def check_engine(engine: Engine) -> GoldenCheck:
        with Encoder(bundle, variant, tokenizer, _BorrowedEngine(engine)) as encoder:
            encoder.layout = layout or encoder.layout
            return golden.check(encoder)

    return check_engine


class _BorrowedEngine:
    """Wraps an engine for a short-lived encoder: closing the encoder does not close the engine."""

    def __init__(self, engine: Engine) -> None:
        self.streams, self.precision, self.encode = engine.streams, engine.precision, engine.encode

    def close(self) -> None: ...


def _worst(checks: Sequence[GoldenCheck]) -> GoldenCheck:
    return GoldenCheck(
        checks[0].texts,
        min(each.minimum for each in checks),
        min(each.mean for each in checks),
        min(each.alone for each in checks),
    )
