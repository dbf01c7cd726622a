"""Which stream gets what is put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import cast

from embedship.serve.batching.dispatcher import Seats
from embedship.serve.batching.priority_queue import Lanes, Work
from embedship.serve.batching.retry import Piece
from embedship.serve.devices import Device
from embedship.serve.telemetry.request_context import Lane

SECONDS = 20


@dataclass(eq=False)
class Client:
    gone: bool = False


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
    seats: Seats[Client] = Seats([cast("Device", fake) for fake in fakes], Lanes(64))
    suspect, text = Piece([Work(Client(), 0, [1])], deaths=1), Work(Client(), 0, [2])
    taken: SimpleQueue[tuple[str, Piece[Client] | None]] = SimpleQueue()
    seats.again([suspect])
    assert seats.take("cpu:0") == suspect
    threads = [Thread(target=lambda name=name: taken.put((name, seats.take(name)))) for name in ("cpu:0", "cpu:1")]
    try:
        for thread, fake in zip(threads, fakes, strict=True):
            while fake.asked.acquire(blocking=False):
                ...
            thread.start()
            assert fake.asked.acquire(timeout=SECONDS)  # and it holds the lock until it waits
        assert seats.put(Lane.INTERACTIVE, [text])
        name, piece = taken.get(timeout=SECONDS)
    finally:
        seats.close()
        for thread in threads:
            thread.join(SECONDS)
    assert (name, piece and piece.works) == ("cpu:1", [text])
