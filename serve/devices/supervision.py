"""Supervision of a worker process: it is started, checked, watched, killed if it hangs, and restarted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event, Lock, Thread, Timer
from typing import Protocol

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.engine.protocol import Engine
from embedship.errors import EmbedshipError
from embedship.golden import GoldenCheck
from embedship.serve.devices import DeviceDown, DeviceLost
from embedship.serve.devices.hang_detector import HangDetector

logger = logging.getLogger(__name__)

# Time between two checks of the hang detector. The death of a process is noticed at once.
TICK_SECONDS = 0.25

# A worker that is not open and checked by then is killed as hanging. A large model takes a minute from a slow disk.
START_SECONDS = 300.0


class SupervisedWorker(Engine, Protocol):
    """One worker process: created at once, then opened, which takes time. It is an Engine once it is open."""

    def open(self) -> None:
        """Wait until the engine is open. Raises the EmbedshipError that prevented it."""

    def wait_ended(self, seconds: float) -> bool:
        """Return whether the process ends within `seconds`."""

    def kill(self) -> None:
        """Kill the process at once, from any thread. Pending `encode` calls raise DeviceLost."""


class RestartBackoff:
    """Seconds to wait before the next start: FIRST, then doubled up to MOST; FIRST again after CALM seconds of uptime.

    >>> backoff = RestartBackoff()
    >>> [backoff.after(uptime=1.0) for _ in range(3)], backoff.after(uptime=99.0)
    ([0.25, 0.5, 1.0], 0.25)
    """

    FIRST, MOST, CALM = 0.25, 30.0, 45.0

    def __init__(self) -> None:
        self._next = self.FIRST

    def after(self, uptime: float) -> float:
        """Return the seconds to wait after a worker ended that was up for `uptime` seconds (0 if it never was up)."""
        if uptime >= self.CALM:
            self._next = self.FIRST
        seconds, self._next = self._next, min(self.MOST, 2 * self._next)
        return seconds


class SupervisedDevice:
    """A device whose engine runs in a worker process.

    `launch` creates a worker, and `check_worker` raises an EmbedshipError unless it returns the golden vectors. A
    separate thread starts and watches the processes; the streams call `encode`.
    """

    def __init__(
        self,
        name: str,
        streams: int,
        launch: Callable[[], SupervisedWorker],
        check_worker: Callable[[SupervisedWorker], GoldenCheck],
        hang_detector: HangDetector,
        *,
        tick_seconds: float = TICK_SECONDS,
        start_seconds: float = START_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.streams = streams
        self.hang_detector = hang_detector
        self.restarts = 0
        self._launch, self._check_worker = launch, check_worker
        self._tick_seconds, self._start_seconds, self._clock = tick_seconds, start_seconds, clock
        self._changed: Callable[[], None] = lambda: None
        self._worker: SupervisedWorker | None = None  # the worker that accepts batches
        self._starting: SupervisedWorker | None = None
        self._guard = Lock()  # guards the two above and `_closing`, so that `close` finds every process
        self._closing = Event()
        self._first_start_done = Event()
        self._first: GoldenCheck | EmbedshipError | None = None
        self._precision: Precision | None = None
        self._thread = Thread(target=self._run, name=f"{name} watch", daemon=True)
        self._thread.start()

    def wait_until_open(self) -> GoldenCheck:
        """Wait for the first start and return its golden check. If it fails, raise its EmbedshipError; no retry."""
        self._first_start_done.wait()
        if isinstance(self._first, GoldenCheck):
            return self._first
        raise self._first or DeviceDown(f"{self.name} was closed while it was starting")

    @property
    def precision(self) -> Precision:
        assert self._precision is not None, "precision was read before the worker was open"
        return self._precision

    @property
    def up(self) -> bool:
        return self._worker is not None

    @property
    def stuck(self) -> bool:
        """Always False: a hanging pass ends when its worker process is killed."""
        return False

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def encode(self, batch: Batch) -> Vectors:
        worker = self._worker
        if worker is None:
            raise DeviceDown(f"{self.name} is down")
        try:
            with self.hang_detector.timed_pass(batch.input_ids.size):
                return worker.encode(batch)
        except (DeviceLost, DeviceDown):
            # Mark it as down before the watching thread notices: this stream must not send it the next batch.
            self._mark_down(worker)
            raise

    def close(self) -> None:
        with self._guard:
            self._closing.set()
            for worker in (self._worker, self._starting):
                if worker is not None:
                    worker.kill()
        self._thread.join()

    def _run(self) -> None:
        backoff = RestartBackoff()
        while not self._closing.is_set():
            uptime = self._run_worker()
            if isinstance(self._first, EmbedshipError):
                return
            if self._closing.wait(seconds := backoff.after(uptime)):
                return
            self.restarts += 1
            logger.warning("%s is restarted after a wait of %.2f s", self.name, seconds)

    def _run_worker(self) -> float:
        """Run one worker process from start to end. Return for how many seconds it was up."""
        worker = self._start()
        if worker is None:
            return 0.0
        started = self._clock()
        while not worker.wait_ended(self._tick_seconds):
            if seconds := self.hang_detector.stalled_seconds():
                logger.error("%s: a forward pass has run for %.1f s; its process is killed", self.name, seconds)
                worker.kill()
        self._mark_down(worker)
        worker.close()
        return self._clock() - started

    def _start(self) -> SupervisedWorker | None:
        """Start a worker and return it once it is open, checked and accepts batches. Return None if that failed."""
        try:
            worker = self._launch_worker()
        except EmbedshipError as error:
            self._finish_start(error)
            return None
        if worker is None:
            return None
        checked = self._open_and_check(worker)
        if isinstance(checked, EmbedshipError):
            worker.close()
        ready = worker if isinstance(checked, GoldenCheck) else None
        with self._guard:
            self._starting, self._worker = None, ready
        self._finish_start(checked)
        return ready  # not `_worker`: a stream may already have marked it as down, and its end must still be awaited

    def _open_and_check(self, worker: SupervisedWorker) -> GoldenCheck | EmbedshipError:
        deadline = Timer(self._start_seconds, worker.kill)
        deadline.start()
        try:
            worker.open()
            self._precision = worker.precision
            return self._check_worker(worker)
        except EmbedshipError as error:
            return error
        finally:
            deadline.cancel()

    def _launch_worker(self) -> SupervisedWorker | None:
        with self._guard:
            if self._closing.is_set():
                return None
            self._starting = self._launch()
            return self._starting

    def _finish_start(self, checked: GoldenCheck | EmbedshipError) -> None:
        if isinstance(checked, GoldenCheck):
            logger.info("%s is up; the lowest cosine of its golden texts is %.5f", self.name, checked.minimum)
        elif not self._closing.is_set():
            logger.error("%s did not start: %s", self.name, checked)
        if self._first is None:
            self._first = checked
        self._first_start_done.set()
        self._changed()

    def _mark_down(self, worker: SupervisedWorker) -> None:
        with self._guard:
            if self._worker is not worker:
                return
            self._worker = None
        if not self._closing.is_set():
            logger.error("%s is down", self.name)
        self._changed()
