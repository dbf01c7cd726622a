"""Requests as they really come, through the real streams: many at once, some cancelled, some late; seeded."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from threading import Event

import numpy as np
import pytest

from embedship.batches import Batch
from embedship.codes import Vectors
from embedship.serve.errors import ClientDeadlineExceeded
from embedship.serve.http import deadline
from embedship.serve.http.deadline import RequestTimeout
from embedship.serve.telemetry.request_context import Priority

from .batching.test_executor import SECONDS, Bench, Engine, bench, texts, until

REQUESTS = 150


class Client:
    """One request: its own first ids, so that every vector says whose it is."""

    def __init__(self, number: int, random: Random) -> None:
        self.first = 1 + 100 * number
        self.lengths = [random.randint(1, 60) for _ in range(random.choice([1, 1, 3, 20]))]
        self.lane = random.choice(list(Priority))
        self.leaves_after = random.randint(0, 30) if random.random() < 0.2 else None  # turns of the event loop
        self.seconds = random.choice([0.0, 1e-4, 1e-3]) if random.random() < 0.2 else SECONDS
        self.answers: list[Vectors] = []

    async def ask(self, made: Bench) -> None:
        """Ends with an answer, with CancelledError, or with Expired."""
        async with deadline.enforce_timeout(RequestTimeout(self.seconds, chosen=True)):
            self.answers.append(await made.encode(texts(self.first, self.lengths), self.lane))

    async def leave(self, asking: asyncio.Task[None]) -> None:
        for _ in range(self.leaves_after or 0):
            await asyncio.sleep(0)
        asking.cancel()

    @property
    def ids(self) -> list[int]:
        return [self.first + i for i in range(len(self.lengths))]


async def serve(made: Bench, clients: list[Client]) -> list[BaseException | None]:
    asking = []
    for client in clients:
        asking.append(asyncio.create_task(client.ask(made)))
        await asyncio.sleep(0)
    leaving = [c.leave(task) for c, task in zip(clients, asking, strict=True) if c.leaves_after is not None]
    await asyncio.gather(*leaving)
    return await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize("seed", range(5))
def test_each_request_ends_once_and_with_its_own_vectors(seed: int) -> None:
    random = Random(seed)
    clients, engine = [Client(number, random) for number in range(REQUESTS)], Engine()
    with bench(engine) as made:
        ends = asyncio.run(asyncio.wait_for(serve(made, clients), SECONDS))
        assert (made.admission.inside, made.workers.waiting()) == (0, 0), "permits and texts are given back"
    for client, end in zip(clients, ends, strict=True):
        if end is None:
            (vectors,) = client.answers
            assert vectors[:, 0].tolist() == client.ids, "rows in the order of its texts"
            assert vectors[:, 1].tolist() == client.lengths
        else:
            assert not client.answers
            assert isinstance(end, asyncio.CancelledError | ClientDeadlineExceeded), end
            assert client.leaves_after is not None or client.seconds < SECONDS, "nobody else is turned away"
    seen = Counter(engine.seen)
    assert max(seen.values()) == 1, "no text is computed twice"
    assert all(seen[i] == 1 for client, end in zip(clients, ends, strict=True) if end is None for i in client.ids)
    assert sum(end is None for end in ends) > REQUESTS / 2


def test_what_is_late_before_its_turn_costs_nothing() -> None:
    entered, proceed = Event(), Event()

    def block(batch: Batch) -> None:
        entered.set()
        assert proceed.wait(SECONDS)

    async def late(made: Bench) -> None:
        async with deadline.enforce_timeout(RequestTimeout(0.01, chosen=True)):
            await made.encode([[2] * 5, [3] * 5])

    async def go(made: Bench) -> None:
        running = asyncio.create_task(made.encode([[1] * 40]))
        await asyncio.to_thread(entered.wait, SECONDS)
        patient = asyncio.create_task(made.encode([[4] * 5]))
        with pytest.raises(ClientDeadlineExceeded):
            await late(made)
        await until(lambda: made.admission.inside == 2)
        proceed.set()
        assert np.array_equal(await patient, [[4, 5, 0, 0]])
        await running

    engine = Engine(block, streams=1)
    with bench(engine) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
    assert engine.seen == [1, 4]
