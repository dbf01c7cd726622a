"""Supervision of workers that die, hang and refuse on command, with and without an executor."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedship.batches import Batch, BatchLayout, pad
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.errors import EngineError, GateError
from embedship.golden import GoldenCheck
from embedship.serve.batching.admission import AdmissionController
from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.batching.pending import PendingRequest
from embedship.serve.batching.priority_queue import PriorityQueue
from embedship.serve.devices import DeviceDown, DeviceLost
from embedship.serve.devices.hang_detector import SLACK, HangDetector
from embedship.serve.devices.supervision import RestartBackoff, SupervisedDevice, SupervisedWorker
from embedship.serve.errors import EngineFailed
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.serve.telemetry.request_context import Priority
from embedship.tokens import TokenBatch

SECONDS = 20.0
KILLER, HANG = 666, 777
RIGHT = GoldenCheck(1, 1.0, 1.0, 1.0)


class FakeWorker:
    """A worker that returns the first id of each text. It dies of the text KILLER, and hangs with the text HANG."""

    streams = 1
    precision = Precision.FLOAT32

    def __init__(self, refusal: EngineError | None = None) -> None:
        self.refusal = refusal
        self.closed = False
        self.dead = threading.Event()

    def open(self) -> None:
        if self.refusal:
            raise self.refusal

    def encode(self, batch: Batch) -> Vectors:
        if self.dead.is_set():
            raise DeviceDown("gone")
        if (batch.input_ids == KILLER).any():
            self.dead.set()
        if (batch.input_ids == HANG).any():
            assert self.dead.wait(SECONDS)
        if self.dead.is_set():
            raise DeviceLost("died in a batch")
        return batch.input_ids[:, :1].astype(np.float32)

    def wait_ended(self, seconds: float) -> bool:
        return self.dead.wait(seconds)

    def kill(self) -> None:
        self.dead.set()

    def close(self) -> None:
        self.kill()
        self.closed = True


class DeviceFactory:
    """Creates supervised devices of FakeWorkers, and records the workers."""

    def __init__(self, stack: ExitStack) -> None:
        self.workers: list[FakeWorker] = []
        self._stack = stack
        self.refuse: Callable[[int], EngineError | None] = lambda number: None
        self.check_worker: Callable[[SupervisedWorker], GoldenCheck] = lambda worker: RIGHT

    def launch(self) -> FakeWorker:
        self.workers.append(FakeWorker(self.refuse(len(self.workers))))
        return self.workers[-1]

    def device(
        self, name: str = "cpu:0", stall_seconds: float = SECONDS, start_seconds: float = SECONDS
    ) -> SupervisedDevice:
        made = SupervisedDevice(
            name, 1, self.launch, self.check_worker, HangDetector(stall_seconds), tick_seconds=0.01,
            start_seconds=start_seconds,
        )  # fmt: skip
        self._stack.callback(made.close)
        return made


@pytest.fixture
def bed() -> Iterator[DeviceFactory]:
    with ExitStack() as stack:
        yield DeviceFactory(stack)


class UpDownWaiter:
    """Waits for a device to come up or go down."""

    def __init__(self, device: SupervisedDevice) -> None:
        self._device = device
        self._turned = threading.Condition()
        device.watch(self._notify)

    def _notify(self) -> None:
        with self._turned:
            self._turned.notify_all()

    def until(self, up: bool) -> None:
        with self._turned:
            assert self._turned.wait_for(lambda: self._device.up is up, SECONDS)


def batch(*ids: int) -> Batch:
    return pad([[each] for each in ids], 0)


def test_a_worker_that_dies_is_closed_and_replaced(bed: DeviceFactory) -> None:
    device = bed.device()
    assert device.wait_until_open() is RIGHT
    turns = UpDownWaiter(device)
    with pytest.raises(DeviceLost):
        device.encode(batch(KILLER))
    assert not device.up, "its own stream must not send it the next batch"
    turns.until(up=True)
    assert device.encode(batch(5))[0, 0] == 5
    assert (device.restarts, len(bed.workers)) == (1, 2)
    assert bed.workers[0].closed


def test_a_hanging_pass_ends_when_its_process_is_killed(bed: DeviceFactory) -> None:
    device = bed.device(stall_seconds=0.05)
    device.wait_until_open()
    turns = UpDownWaiter(device)
    with pytest.raises(DeviceLost):
        device.encode(batch(HANG))
    turns.until(up=True)
    assert device.restarts == 1


@pytest.mark.parametrize("stage", ["launch", "open", "proof"])
def test_a_failed_first_start_raises_its_error_and_is_not_retried(bed: DeviceFactory, stage: str) -> None:
    def fail(*_: object) -> GoldenCheck:
        raise GateError("wrong vectors")

    if stage == "launch":
        bed.launch = fail  # type: ignore[assignment, method-assign]
    elif stage == "open":
        bed.refuse = lambda number: EngineError("wrong vectors")
    else:
        bed.check_worker = fail
    device = bed.device()
    with pytest.raises((EngineError, GateError), match="wrong vectors"):
        device.wait_until_open()
    device.close()
    assert not device.up
    assert all(worker.closed for worker in bed.workers)


def test_a_worker_with_wrong_vectors_after_a_restart_gets_no_batches(bed: DeviceFactory) -> None:
    wrong = iter([None, GateError("wrong vectors"), EngineError("no memory")])

    def check_worker(worker: SupervisedWorker) -> GoldenCheck:
        if error := next(wrong, None):
            raise error
        return RIGHT

    bed.check_worker = check_worker
    device = bed.device()
    device.wait_until_open()
    turns = UpDownWaiter(device)
    bed.workers[0].kill()
    turns.until(up=False)
    turns.until(up=True)
    assert (device.restarts, len(bed.workers)) == (3, 4)
    assert [worker.closed for worker in bed.workers] == [True, True, True, False]


def test_a_hanging_start_is_killed(bed: DeviceFactory) -> None:
    def hang(worker: SupervisedWorker) -> GoldenCheck:
        worker.encode(batch(HANG))
        return RIGHT

    bed.check_worker = hang
    with pytest.raises(DeviceLost):
        bed.device(start_seconds=0.05).wait_until_open()


def test_a_device_can_be_closed_while_it_starts(bed: DeviceFactory) -> None:
    begun = threading.Event()

    def hang(worker: SupervisedWorker) -> GoldenCheck:
        begun.set()
        worker.encode(batch(HANG))
        return RIGHT

    bed.check_worker = hang
    device = bed.device()
    assert begun.wait(SECONDS)
    device.close()
    assert [worker.closed for worker in bed.workers] == [True]


def test_the_wait_between_starts_doubles_until_a_worker_stays_up() -> None:
    backoff = RestartBackoff()
    waits = [backoff.after(uptime=0.0) for _ in range(12)]
    assert waits[0] == RestartBackoff.FIRST
    assert all(b == min(RestartBackoff.MOST, 2 * a) for a, b in itertools.pairwise(waits))
    assert waits[-1] == RestartBackoff.MOST
    assert backoff.after(uptime=RestartBackoff.CALM) == RestartBackoff.FIRST


def test_the_limit_of_a_pass_follows_its_tokens_and_the_speed_of_the_device() -> None:
    now = 0.0
    detector = HangDetector(1.0, clock=lambda: now)
    with detector.timed_pass(tokens=100):
        now += 10.0  # 0.1 s per token
        assert detector.stalled_seconds() == 10.0, "without a measured speed the limit is --stall-seconds"
    with detector.timed_pass(tokens=50):
        now += SLACK * 5.0
        assert detector.stalled_seconds() is None
        now += 0.1
        assert detector.stalled_seconds() == pytest.approx(SLACK * 5.0 + 0.1)
    assert detector.batches == 2


def test_only_the_text_that_kills_a_device_fails(bed: DeviceFactory) -> None:
    """Two devices and batches of up to 16 texts. One text kills every device that computes it."""
    devices = [bed.device("cpu:0"), bed.device("cpu:1")]
    for device in devices:
        device.wait_until_open()
    admission, queue = AdmissionController(1_000), PriorityQueue[PendingRequest](16)
    workers = BatchExecutor(devices, 1, BatchLayout(0, 512), queue, ModelMetrics(CollectorRegistry()))

    async def ask(first: int) -> Vectors:
        with admission.acquire(1, Priority.INTERACTIVE) as permit:
            return await workers.encode(permit, TokenBatch([[first]], [0]), Priority.INTERACTIVE)

    async def go() -> list[Vectors | BaseException]:
        asked = [*range(1, 40), KILLER, *range(40, 60)]
        return await asyncio.gather(*map(ask, asked), return_exceptions=True)

    try:
        answers = asyncio.run(asyncio.wait_for(go(), SECONDS))
    finally:
        workers.close()
    failed = answers.pop(39)
    assert isinstance(failed, EngineFailed)
    assert [float(answer[0, 0]) for answer in answers] == list(range(1, 60))  # type: ignore[index]
    assert sum(worker.dead.is_set() for worker in bed.workers) == 3
    assert workers.split >= 1
