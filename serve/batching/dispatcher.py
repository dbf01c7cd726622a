"""Who takes what next: the streams' side of the lanes, with what failed before and what is for one device only.

Nothing here computes. One lock guards it all.
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
    """One device at the table: how many of its streams wait and compute, and its errands."""

    def __init__(self, device: ServingDevice, lock: Lock) -> None:
        self.device = device
        self.changed = Condition(lock)
        self.waiting = 0  # streams that nobody has woken yet
        self.running = 0
        self.alone = False  # a suspect computes here, and nothing may beside it
        self.errands: PinnedQueue[RequestT] = PinnedQueue(device.name)

    def wake(self, streams: int) -> int:
        """Wake at most so many of its streams, and say how many."""
        woken = min(streams, self.waiting)
        self.waiting -= woken
        self.changed.notify(woken)
        return woken

    def wait(self) -> None:
        self.waiting += 1
        self.changed.wait()


class PinnedQueue(Generic[RequestT]):
    """Batches of their own, mostly of one text, for one device and no other.

    They wait until no request does, but for at most PATIENCE batches: a canary must sing under load, too.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._waiting: deque[Sequence[QueuedText[RequestT]]] = deque()
        self._passed_over = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, works: Sequence[QueuedText[RequestT]]) -> None:
        self._waiting.append(list(works))

    def take(self, lanes: PriorityQueue[RequestT]) -> BatchJob[RequestT] | None:
        """The device's next batch: work from the lanes, or an errand; None if there is neither."""
        if self._waiting and self._passed_over >= MAX_INTERACTIVE_STREAK:
            return self.next()
        if works := lanes.take():
            self._passed_over += bool(self._waiting)
            return BatchJob(works)
        return self.next() if self._waiting else None

    def next(self) -> BatchJob[RequestT]:
        self._passed_over = 0
        return BatchJob(self._waiting.popleft(), errand=self._device)


class BatchDispatcher(Generic[RequestT]):
    """Thread-safe. `next_batch` blocks a stream until there is a piece for it; `put` and `put_pinned` never block."""

    def __init__(self, devices: Sequence[ServingDevice], lanes: PriorityQueue[RequestT]) -> None:
        self._lock = Lock()
        self._lanes = lanes
        self._seats = {device.name: DeviceSlot[RequestT](device, self._lock) for device in devices}
        self._again: deque[BatchJob[RequestT]] = deque()  # what failed before, to be tried first
        self._suspects: deque[BatchJob[RequestT]] = deque()
        self._closed = False
        for device in devices:
            device.watch(self._changed)

    def __len__(self) -> int:
        """Texts that wait, and somebody for them."""
        with self._lock:
            return len(self._lanes) + len(self._owners_again())

    def oldest(self) -> list[RequestT]:
        """Who has waited longest in each lane, and all whose batch is to be tried again."""
        with self._lock:
            return [*self._lanes.oldest(), *self._owners_again()]

    def _owners_again(self) -> list[RequestT]:
        """One a text that is to be tried again."""
        return [work.owner for piece in (*self._again, *self._suspects) for work in piece.without_cancelled.works]

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, lane: Priority, works: Sequence[QueuedText[RequestT]]) -> bool:
        """False, and nothing is put, once it is closed."""
        with self._lock:
            if not self._closed:
                self._lanes.put(lane, works)
                self._wake(len(works))
            return not self._closed

    def put_pinned(self, device: str, *works: QueuedText[RequestT]) -> bool:
        """One batch of these. False, and nothing is put, once it is closed or while the device is down."""
        seat = self._seats[device]
        with self._lock:
            accepted = not self._closed and seat.device.up
            if accepted:
                seat.errands.put(works)
                seat.wake(1)
            return accepted

    def requeue(self, pieces: Iterable[BatchJob[RequestT]]) -> None:
        with self._lock:
            for piece in pieces:
                (self._suspects if piece.quarantined else self._again).append(piece)
            self._wake_all()

    def next_batch(self, device: str) -> BatchJob[RequestT] | None:
        """Wait for the next piece of a device, which has to be given back with `done`; None means the end.

        A device that is down gets its errands, so that they fail, and nothing else.
        """
        seat = self._seats[device]
        with self._lock:
            while not self._closed:
                if piece := self._choose(seat):
                    self._begin(seat, piece)
                    return piece
                seat.wait()
        return None

    def done(self, device: str, piece: BatchJob[RequestT]) -> None:
        seat = self._seats[device]
        with self._lock:
            seat.running -= 1
            if piece.quarantined:
                seat.alone = False
            if piece.quarantined or self._suspects:
                self._wake_all()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._wake_all()

    def _choose(self, seat: DeviceSlot[RequestT]) -> BatchJob[RequestT] | None:
        if not seat.device.up:
            return seat.errands.next() if len(seat.errands) else None
        if seat.alone:
            return None
        if _first(self._suspects):
            # No stream begins anything else: some device becomes free of all others' texts, and takes it.
            return None if seat.running else self._suspects.popleft()
        if _first(self._again):
            return self._again.popleft()
        return seat.errands.take(self._lanes)

    def _begin(self, seat: DeviceSlot[RequestT], piece: BatchJob[RequestT]) -> None:
        seat.running += 1
        if piece.quarantined:
            seat.alone = True
            self._wake_all()  # those that it kept waiting

    def _wake(self, streams: int) -> None:
        """Wake so many streams that can begin something, and no others: each costs the event loop time."""
        for seat in self._seats.values():
            if seat.device.up and not seat.alone:  # beside a suspect it would wait again, and the wake be lost
                streams -= seat.wake(streams)

    def _wake_all(self) -> None:
        for seat in self._seats.values():
            seat.wake(seat.device.streams)

    def _changed(self) -> None:
        """A device came up or went down; called from its own thread."""
        with self._lock:
            self._wake_all()


def _first(pieces: deque[BatchJob[RequestT]]) -> bool:
    """Whether a piece is there that somebody still waits for, after dropping from the front what nobody does."""
    while pieces:
        pieces[0] = pieces[0].without_cancelled
        if pieces[0].works:
            return True
        pieces.popleft()
    return False
