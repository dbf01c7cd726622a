"""Which device stream gets the texts that are queued."""

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
    """A device with only the attributes that the dispatcher uses."""

    streams = 2

    def __init__(self, name: str) -> None:
        self.name = name
        self.polled = Semaphore(0)  # released each time a stream looks for a batch

    @property
    def up(self) -> bool:
        self.polled.release()
        return True

    def watch(self, changed: Callable[[], None]) -> None: ...


def test_a_text_next_to_a_quarantined_batch_wakes_a_stream_of_another_device() -> None:
    fakes = [Fake("cpu:0"), Fake("cpu:1")]
    dispatcher: BatchDispatcher[Client] = BatchDispatcher(
        [cast("ServingDevice", fake) for fake in fakes], PriorityQueue(64)
    )
    quarantined, text = BatchJob([QueuedText(Client(), 0, [1])], device_losses=1), QueuedText(Client(), 0, [2])
    taken: SimpleQueue[tuple[str, BatchJob[Client] | None]] = SimpleQueue()
    dispatcher.requeue([quarantined])
    assert dispatcher.next_batch("cpu:0") == quarantined
    threads = [
        Thread(target=lambda name=name: taken.put((name, dispatcher.next_batch(name)))) for name in ("cpu:0", "cpu:1")
    ]
    try:
        for thread, fake in zip(threads, fakes, strict=True):
            while fake.polled.acquire(blocking=False):
                ...
            thread.start()
            assert fake.polled.acquire(timeout=SECONDS)  # it holds the lock until it waits
        assert dispatcher.put(Priority.INTERACTIVE, [text])
        name, job = taken.get(timeout=SECONDS)
    finally:
        dispatcher.close()
        for thread in threads:
            thread.join(SECONDS)
    assert (name, job and job.texts) == ("cpu:1", [text])
