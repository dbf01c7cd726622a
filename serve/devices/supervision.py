"""A device in a process of its own: started, proven, watched, killed when it hangs, and started again."""

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

# Between two looks at the pulse. The death of a process wakes its watcher at once.
TICK_SECONDS = 0.25


# A worker that is not open and proven by then hangs: a large model takes a minute from a slow disk.
START_SECONDS = 300.0


class SupervisedWorker(Engine, Protocol):
    """One process: made at once, then opened, which takes its time; an Engine from then on."""

    def open(self) -> None:
        """Raises the EmbedshipError for which it could not."""

    def ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""

    def kill(self) -> None:
        """At once, from any thread; whoever waits for it gets DeviceLost."""


class RestartBackoff:
    """Seconds to wait before the next start: doubled after each, the first again once one has lived long enough.

    >>> backoff = Backoff()
    >>> [backoff.after(lived=1.0) for _ in range(3)], backoff.after(lived=99.0)
    ([0.25, 0.5, 1.0], 0.25)
    """

    FIRST, MOST, CALM = 0.25, 30.0, 45.0

    def __init__(self) -> None:
        self._next = self.FIRST

    def after(self, lived: float) -> float:
        """A worker has ended that was up for `lived` seconds; 0 if it never was."""
        if lived >= self.CALM:
            self._next = self.FIRST
        seconds, self._next = self._next, min(self.MOST, 2 * self._next)
        return seconds


class SupervisedDevice:
    """The device of a worker process. `launch` makes one, `prove` raises unless it gives the golden vectors.

    Its own thread starts and watches the processes; the streams call `encode`.
    """

    def __init__(
        self,
        name: str,
        streams: int,
        launch: Callable[[], SupervisedWorker],
        prove: Callable[[SupervisedWorker], GoldenCheck],
        pulse: HangDetector,
        *,
        tick_seconds: float = TICK_SECONDS,
        start_seconds: float = START_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.streams = streams
        self.pulse = pulse
        self.restarts = 0
        self._launch, self._prove = launch, prove
        self._tick_seconds, self._start_seconds, self._clock = tick_seconds, start_seconds, clock
        self._changed: Callable[[], None] = lambda: None
        self._worker: SupervisedWorker | None = None  # the one that takes batches
        self._starting: SupervisedWorker | None = None
        self._guard = Lock()  # of the two above and of `_closing`: whoever closes must find every process
        self._closing = Event()
        self._settled = Event()
        self._first: GoldenCheck | EmbedshipError | None = None
        self._precision: Precision | None = None
        self._thread = Thread(target=self._run, name=f"{name} watch", daemon=True)
        self._thread.start()

    def opened(self) -> GoldenCheck:
        """Wait for the first start. Raises the EmbedshipError that it failed with; then it is not tried again."""
        self._settled.wait()
        if isinstance(self._first, GoldenCheck):
            return self._first
        raise self._first or DeviceDown(f"{self.name} was closed while it started")

    @property
    def precision(self) -> Precision:
        assert self._precision is not None, "asked before it was open"
        return self._precision

    @property
    def up(self) -> bool:
        return self._worker is not None

    @property
    def stuck(self) -> bool:
        """Never: a pass that hangs is ended with its process."""
        return False

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def encode(self, batch: Batch) -> Vectors:
        worker = self._worker
        if worker is None:
            raise DeviceDown(f"{self.name} is down")
        try:
            with self.pulse.timed_pass(batch.input_ids.size):
                return worker.encode(batch)
        except (DeviceLost, DeviceDown):
            self._lost(worker)  # before its watcher knows: this stream must not take the next batch to it
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
            lived = self._life()
            if isinstance(self._first, EmbedshipError):
                return
            if self._closing.wait(seconds := backoff.after(lived)):
                return
            self.restarts += 1
            logger.warning("%s is started again after %.2f s", self.name, seconds)

    def _life(self) -> float:
        """One process from start to end; returns how many seconds it was up."""
        worker = self._start()
        if worker is None:
            return 0.0
        began = self._clock()
        while not worker.ended(self._tick_seconds):
            if seconds := self.pulse.stalled():
                logger.error("%s: a forward pass has run for %.1f s, its process is killed", self.name, seconds)
                worker.kill()
        self._lost(worker)
        worker.close()
        return self._clock() - began

    def _start(self) -> SupervisedWorker | None:
        """A worker that is open, proven and takes batches; nothing if that failed."""
        try:
            worker = self._launched()
        except EmbedshipError as error:
            self._settle(error)
            return None
        if worker is None:
            return None
        checked = self._tried(worker)
        if isinstance(checked, EmbedshipError):
            worker.close()
        begun = worker if isinstance(checked, GoldenCheck) else None
        with self._guard:
            self._starting, self._worker = None, begun
        self._settle(checked)
        return begun  # and not `_worker`: a stream may have lost it by now, and its end has to be awaited

    def _tried(self, worker: SupervisedWorker) -> GoldenCheck | EmbedshipError:
        late = Timer(self._start_seconds, worker.kill)
        late.start()
        try:
            worker.open()
            self._precision = worker.precision
            return self._prove(worker)
        except EmbedshipError as error:
            return error
        finally:
            late.cancel()

    def _launched(self) -> SupervisedWorker | None:
        with self._guard:
            if self._closing.is_set():
                return None
            self._starting = self._launch()
            return self._starting

    def _settle(self, checked: GoldenCheck | EmbedshipError) -> None:
        if isinstance(checked, GoldenCheck):
            logger.info("%s is up, golden texts at cosine %.5f and more", self.name, checked.minimum)
        elif not self._closing.is_set():
            logger.error("%s did not start: %s", self.name, checked)
        if self._first is None:
            self._first = checked
        self._settled.set()
        self._changed()

    def _lost(self, worker: SupervisedWorker) -> None:
        with self._guard:
            if self._worker is not worker:
                return
            self._worker = None
        if not self._closing.is_set():
            logger.error("%s is down", self.name)
        self._changed()
