"""Dispatcher: decides which batch each device stream runs next.

The order is: batches that failed before, then queued texts, then batches that are pinned to one device. This module
computes no vectors. One lock guards all of its state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from threading import Condition, Lock
from typing import Generic

from embedship.serve.batching.priority_queue import MAX_INTERACTIVE_STREAK, PriorityQueue, QueuedText, RequestT
from embedship.serve.batching.retry import BatchJob
from embedship.serve.devices import ServingDevice
from embedship.serve.telemetry.request_context import Priority


class DeviceSlot(Generic[RequestT]):
    """The state of one device: how many of its streams wait or compute, and its pinned batches."""

    def __init__(self, device: ServingDevice, lock: Lock) -> None:
        self.device = device
        self.changed = Condition(lock)
        self.waiting = 0  # waiting streams that have not been woken yet
        self.running = 0  # batches that run now
        self.alone = False  # a quarantined batch runs here, so no other batch may start on this device
        self.pinned: PinnedQueue[RequestT] = PinnedQueue(device.name)

    def wake(self, streams: int) -> int:
        """Wake at most `streams` waiting streams of the device. Return how many were woken."""
        count = min(streams, self.waiting)
        self.waiting -= count
        self.changed.notify(count)
        return count

    def wait(self) -> None:
        self.waiting += 1
        self.changed.wait()


class PinnedQueue(Generic[RequestT]):
    """Batches that must run on one given device, such as canary texts. Each is a separate batch, mostly of one text.

    They run when the queue is empty, or after at most MAX_INTERACTIVE_STREAK other batches, so that canaries also run
    under load.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._waiting: deque[Sequence[QueuedText[RequestT]]] = deque()
        self._passed_over = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, texts: Sequence[QueuedText[RequestT]]) -> None:
        self._waiting.append(list(texts))

    @property
    def overdue(self) -> bool:
        """Whether a batch waits here, and must run before queued texts."""
        return bool(self._waiting) and self._passed_over >= MAX_INTERACTIVE_STREAK

    def pass_over(self) -> None:
        """Count a batch of queued texts that runs before the batches here."""
        self._passed_over += bool(self._waiting)

    def next(self) -> BatchJob[RequestT]:
        self._passed_over = 0
        return BatchJob(self._waiting.popleft(), pinned_to=self._device)


class BatchDispatcher(Generic[RequestT]):
    """Gives batches to streams. Thread-safe.

    `next_batch` blocks a stream until a batch is ready; `put` and `put_pinned` never block.
    """

    def __init__(self, devices: Sequence[ServingDevice], queue: PriorityQueue[RequestT]) -> None:
        self._lock = Lock()
        self._queue = queue
        self._slots = {device.name: DeviceSlot[RequestT](device, self._lock) for device in devices}
        self._retries: deque[BatchJob[RequestT]] = deque()  # batches that failed before; they run first
        self._quarantined: deque[BatchJob[RequestT]] = deque()
        self._closed = False
        for device in devices:
            device.watch(self._changed)

    def __len__(self) -> int:
        """Return the number of queued texts, without those of cancelled requests."""
        with self._lock:
            return len(self._queue) + len(self._requests_to_retry())

    def oldest(self) -> list[RequestT]:
        """Return the request that has waited longest in each lane, and all requests with a batch to retry."""
        with self._lock:
            return [*self._queue.oldest(), *self._requests_to_retry()]

    def _requests_to_retry(self) -> list[RequestT]:
        """Return the request of each text that waits for a retry; a request may occur several times."""
        return [text.request for job in (*self._retries, *self._quarantined) for text in job.without_cancelled.texts]

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, lane: Priority, texts: Sequence[QueuedText[RequestT]]) -> bool:
        """Add texts to the queue. Return False, and add nothing, if the dispatcher is closed."""
        with self._lock:
            if not self._closed:
                self._queue.put(lane, texts)
                self._wake(len(texts))
            return not self._closed

    def put_pinned(self, device: str, *texts: QueuedText[RequestT]) -> bool:
        """Add one batch that only `device` may run.

        Return False, and add nothing, if the dispatcher is closed or the device is down.
        """
        slot = self._slots[device]
        with self._lock:
            accepted = not self._closed and slot.device.up
            if accepted:
                slot.pinned.put(texts)
                slot.wake(1)
            return accepted

    def requeue(self, jobs: Iterable[BatchJob[RequestT]]) -> None:
        """Add jobs for a retry. They run before queued texts."""
        with self._lock:
            for job in jobs:
                (self._quarantined if job.quarantined else self._retries).append(job)
            self._wake_all()

    def next_batch(self, device: str) -> BatchJob[RequestT] | None:
        """Wait for the next batch of a device and return it; return None after `close`.

        The caller must pass the batch to `done` afterwards. A device that is down gets only its pinned batches, so that
        they fail at once.
        """
        slot = self._slots[device]
        with self._lock:
            while not self._closed:
                if job := self._choose(slot):
                    self._begin(slot, job)
                    return job
                slot.wait()
        return None

    def done(self, device: str, job: BatchJob[RequestT]) -> None:
        """Record that a job from `next_batch` has ended."""
        slot = self._slots[device]
        with self._lock:
            slot.running -= 1
            if job.quarantined:
                slot.alone = False
            if job.quarantined or self._quarantined:
                self._wake_all()

    def close(self) -> None:
        """Refuse further texts, and let `next_batch` return None in every stream."""
        with self._lock:
            self._closed = True
            self._wake_all()

    def _choose(self, slot: DeviceSlot[RequestT]) -> BatchJob[RequestT] | None:
        if not slot.device.up:
            return slot.pinned.next() if len(slot.pinned) else None
        if slot.alone:
            return None
        if _drop_cancelled(self._quarantined):
            # While a quarantined batch waits, no other batch starts: so some device becomes free, and runs it alone.
            return None if slot.running else self._quarantined.popleft()
        if _drop_cancelled(self._retries):
            return self._retries.popleft()
        if slot.pinned.overdue or not (texts := self._queue.take()):
            return slot.pinned.next() if len(slot.pinned) else None
        slot.pinned.pass_over()
        return BatchJob(texts)

    def _begin(self, slot: DeviceSlot[RequestT], job: BatchJob[RequestT]) -> None:
        slot.running += 1
        if job.quarantined:
            slot.alone = True
            self._wake_all()  # the streams that waited for this batch to start

    def _wake(self, streams: int) -> None:
        """Wake `streams` streams that can start a batch, and no others, because each wake costs the event loop time."""
        for slot in self._slots.values():
            if slot.device.up and not slot.alone:  # next to a quarantined batch it would only wait again
                streams -= slot.wake(streams)

    def _wake_all(self) -> None:
        for slot in self._slots.values():
            slot.wake(slot.device.streams)

    def _changed(self) -> None:
        """Wake all streams after a device came up or went down. Called from the thread of the device."""
        with self._lock:
            self._wake_all()


def _drop_cancelled(jobs: deque[BatchJob[RequestT]]) -> bool:
    """Drop cancelled texts and empty jobs from the front of `jobs`. Return whether a job is left."""
    while jobs:
        jobs[0] = jobs[0].without_cancelled
        if jobs[0].texts:
            return True
        jobs.popleft()
    return False
