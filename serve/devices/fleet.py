"""All devices of a service, opened and proven: the streams of one engine, or a worker process each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from embedship import golden, variant_choice
from embedship.batches import Batch, BatchLayout
from embedship.bundle import Bundle, Precision, Variant
from embedship.codes import Vectors
from embedship.device import DeviceAddress as Where
from embedship.device import DeviceKind
from embedship.encoder import Encoder
from embedship.engine.device import streams as useful_streams
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
    """The devices as one Engine, for whoever does not care which. Closed by whoever opened it."""

    def __init__(self, devices: Sequence[ServingDevice], checked: GoldenCheck) -> None:
        self.devices = tuple(devices)
        self.checked = checked  # the worst of them

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
        """All at once: each waits for the end of its process."""
        with ThreadPoolExecutor(len(self.devices)) as pool:
            list(pool.map(lambda device: device.close(), self.devices))


def local(encoder: Encoder, stall_seconds: float, prefix: str = "") -> DevicePool:
    """A device a stream of an engine in this process, each proven while all of them compute. Raises GateError.

    `prefix` begins the names of the devices, where another model has some, too.
    """
    engine = encoder.engine
    devices = [LocalDevice(f"{prefix}cpu:{i}", engine, HangDetector(stall_seconds)) for i in range(engine.streams)]
    prove = _proof(encoder.bundle, encoder.variant, encoder.tokenizer, encoder.layout)
    with ThreadPoolExecutor(len(devices)) as pool:
        return DevicePool(devices, _worst(list(pool.map(prove, devices))))


def processes(
    bundle: Bundle,
    variant: str | None,
    devices: Sequence[Where],
    streams: int | None,
    stall_seconds: float,
    prefix: str = "",
) -> Encoder:
    """An Encoder whose engine is a Fleet of worker processes, `streams` in all. Raises what Encoder.open does.

    Without a number of streams, workers on CPUs share the cores, and each GPU has as many as it can use.
    """
    chosen = variant_choice.variant(bundle, variant)
    bundle.verify(bundle.files_of(chosen))
    tokenizer = Tokenizer.open(bundle)
    each = _streams(devices, streams)
    prove = _proof(bundle, chosen, tokenizer)
    with ExitStack() as stack:  # one that does not start ends the others
        supervised = []
        for device in map(str, devices):
            name, order = prefix + device, WorkerConfig(str(bundle.folder), chosen.name, device, each, os.getpid())
            supervised.append(SupervisedDevice(name, each, _launch(name, order), prove, HangDetector(stall_seconds)))
            stack.callback(supervised[-1].close)
        fleet = DevicePool(supervised, _worst([device.opened() for device in supervised]))
        stack.pop_all()
    return Encoder(bundle, chosen, tokenizer, fleet, devices[0].kind)


def _streams(devices: Sequence[Where], wished: int | None) -> int:
    """Of each."""
    useful = wished or useful_streams(devices[0])
    apart = devices[0].kind is not DeviceKind.CPU and not wished
    return useful if apart else max(1, useful // len(devices))


def _launch(name: str, order: WorkerConfig) -> Callable[[], SupervisedWorker]:
    return lambda: WorkerProcess(name, order)


def _proof(
    bundle: Bundle, variant: Variant, tokenizer: Tokenizer, layout: BatchLayout | None = None
) -> Callable[[Engine], GoldenCheck]:
    """Golden texts, alone and coalesced, from tokens to vectors on the way that requests go."""

    def prove(engine: Engine) -> GoldenCheck:
        with Encoder(bundle, variant, tokenizer, _BorrowedEngine(engine)) as encoder:
            encoder.layout = layout or encoder.layout
            return golden.check(encoder)

    return prove


class _BorrowedEngine:
    """An engine that outlives the encoder it is lent to."""

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
