"""Which stream gets what is put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import cast

from embedship.serve.batching.dispatcher import BatchDispatcher
from embedship.serve.batching.priority_queue import PriorityQueue, QueuedText
from embedship.serve.batching.retry import BatchJob
from embedship.serve.devices import ServingDevice
from embedship.serve.telemetry.request_context import Priority

SECONDS = 20


@dataclass(eq=False)
class Client:
    cancelled: bool = False


class Fake:
    """No more of a device than seats ask for."""

    streams = 2

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = Semaphore(0)  # once for each time that a stream looks what there is

    @property
    def up(self) -> bool:
        self.asked.release()
        return True

    def watch(self, changed: Callable[[], None]) -> None: ...


def test_a_text_beside_a_suspect_wakes_a_stream_of_another_device() -> None:
    fakes = [Fake("cpu:0"), Fake("cpu:1")]
    seats: BatchDispatcher[Client] = BatchDispatcher([cast("ServingDevice", fake) for fake in fakes], PriorityQueue(64))
    suspect, text = BatchJob([QueuedText(Client(), 0, [1])], deaths=1), QueuedText(Client(), 0, [2])
    taken: SimpleQueue[tuple[str, BatchJob[Client] | None]] = SimpleQueue()
    seats.requeue([suspect])
    assert seats.next_batch("cpu:0") == suspect
    threads = [
        Thread(target=lambda name=name: taken.put((name, seats.next_batch(name)))) for name in ("cpu:0", "cpu:1")
    ]
    try:
        for thread, fake in zip(threads, fakes, strict=True):
            while fake.asked.acquire(blocking=False):
                ...
            thread.start()
            assert fake.asked.acquire(timeout=SECONDS)  # and it holds the lock until it waits
        assert seats.put(Priority.INTERACTIVE, [text])
        name, piece = taken.get(timeout=SECONDS)
    finally:
        seats.close()
        for thread in threads:
            thread.join(SECONDS)
    assert (name, piece and piece.works) == ("cpu:1", [text])
