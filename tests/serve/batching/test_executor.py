"""The hand-over between event loop and streams, with engines that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, current_thread

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedship.batches import Batch, BatchLayout
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.errors import EngineError
from embedship.serve.batching.admission import AdmissionController
from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.batching.pending import PendingRequest
from embedship.serve.batching.priority_queue import MAX_INTERACTIVE_STREAK, PriorityQueue
from embedship.serve.devices.hang_detector import HangDetector
from embedship.serve.devices.local import LocalDevice
from embedship.serve.errors import EngineFailed
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.serve.telemetry.request_context import Priority
from embedship.tokens import TokenBatch

DIMENSION = 4
SECONDS = 20


class Engine:
    """Gives every text the vector [its first id, its length, 0, 0], or does what `twist` does with the batch."""

    precision = Precision.FLOAT32

    def __init__(self, twist: Callable[[Batch], None] = lambda batch: None, streams: int = 2) -> None:
        self.twist = twist
        self.streams = streams
        self.seen: list[int] = []  # the first id of every text that cost something

    def encode(self, batch: Batch) -> Vectors:
        self.seen += batch.input_ids[:, 0].tolist()
        self.twist(batch)
        vectors = np.zeros((len(batch), DIMENSION), dtype=np.float32)
        vectors[:, 0], vectors[:, 1] = batch.input_ids[:, 0], batch.attention_mask.sum(1)
        return vectors

    def close(self) -> None: ...


class Bench:
    def __init__(self, engine: Engine, stall_seconds: float = SECONDS) -> None:
        self.registry = CollectorRegistry()
        self.admission = AdmissionController(10_000)
        counts = ModelMetrics(self.registry)
        lanes: PriorityQueue[PendingRequest] = PriorityQueue(64)
        devices = [LocalDevice(f"cpu:{i}", engine, HangDetector(stall_seconds)) for i in range(engine.streams)]
        self.workers = BatchExecutor(devices, DIMENSION, BatchLayout(0, 512), lanes, counts)

    async def encode(self, ids: list[list[int]], lane: Priority = Priority.INTERACTIVE) -> Vectors:
        with self.admission.acquire(len(ids), lane) as permit:
            return await self.workers.encode(permit, TokenBatch(ids, [0] * len(ids)), lane)


@contextmanager
def bench(engine: Engine, stall_seconds: float = SECONDS) -> Iterator[Bench]:
    made = Bench(engine, stall_seconds)
    try:
        yield made
    finally:
        made.workers.close()


def texts(first: int, lengths: list[int]) -> list[list[int]]:
    return [[first + i] * n for i, n in enumerate(lengths)]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - lets the other tasks of this loop run, no more
        await asyncio.sleep(0)


def test_rows_come_back_in_the_order_of_the_texts_whatever_the_batches_were() -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 300).tolist()

    async def go(made: Bench) -> list[Vectors]:
        pieces = [texts(1 + 1000 * i, lengths[i::7]) for i in range(7)]
        return await asyncio.gather(*(made.encode(piece, list(Priority)[i % 2]) for i, piece in enumerate(pieces)))

    with bench(Engine()) as made:
        answers = asyncio.run(asyncio.wait_for(go(made), SECONDS))
    for i, vectors in enumerate(answers):
        assert vectors[:, 0].tolist() == [1 + 1000 * i + j for j in range(len(vectors))]
        assert vectors[:, 1].tolist() == lengths[i::7]


def broken(batch: Batch) -> None:
    raise EngineError("device lost")


def buggy(batch: Batch) -> None:
    raise ZeroDivisionError("not an EngineError")


@pytest.mark.parametrize("failure", [broken, buggy])
def test_a_failing_batch_fails_its_own_requests_only(failure: Callable[[Batch], None]) -> None:
    engine = Engine(lambda batch: failure(batch) if (batch.input_ids == 666).any() else None, streams=1)

    async def go(made: Bench) -> list[object]:
        # Lengths too different to share a batch.
        asked = [made.encode([[666] * 60]), made.encode([[5] * 20]), made.encode([[6] * 3])]
        first = await asyncio.gather(*asked, return_exceptions=True)
        return [*first, await made.encode([[7]])]

    with bench(engine) as made:
        poisoned, *others = asyncio.run(asyncio.wait_for(go(made), SECONDS))
        assert made.workers.alive
    assert isinstance(poisoned, EngineFailed)
    assert [vectors[0, 0] for vectors in others] == [5, 6, 7]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_no_number_is_a_failure_and_not_an_answer(value: float) -> None:
    class Mad(Engine):
        def encode(self, batch: Batch) -> Vectors:
            return np.full((len(batch), DIMENSION), value, dtype=np.float32)

    with bench(Mad()) as made, pytest.raises(EngineFailed):
        asyncio.run(asyncio.wait_for(made.encode([[1]]), SECONDS))


def test_a_cancelled_request_costs_nothing_and_gives_its_permits_back() -> None:
    entered, proceed = Event(), Event()

    def block(batch: Batch) -> None:
        entered.set()
        assert proceed.wait(SECONDS)

    engine = Engine(block, streams=1)

    async def go(made: Bench) -> None:
        running = asyncio.create_task(made.encode([[1] * 40]))
        await asyncio.to_thread(entered.wait, SECONDS)
        leaving = asyncio.create_task(made.encode([[2] * 5, [3] * 5]))
        staying = asyncio.create_task(made.encode([[4] * 5]))
        await until(lambda: made.admission.inside == 4)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert made.admission.inside == 2
        proceed.set()
        await asyncio.gather(running, staying)

    with bench(engine) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
    assert engine.seen == [1, 4]


def test_work_that_waits_is_computed_together() -> None:
    entered, proceed = Event(), Event()

    def block(batch: Batch) -> None:
        entered.set()
        assert proceed.wait(SECONDS)

    async def go(made: Bench) -> None:
        running = asyncio.create_task(made.encode([[1] * 40]))
        await asyncio.to_thread(entered.wait, SECONDS)
        waiting = [asyncio.create_task(made.encode([[i] * 8])) for i in range(2, 10)]
        await until(lambda: made.admission.inside == 9)
        proceed.set()
        await asyncio.gather(running, *waiting)

    with bench(Engine(block, streams=1)) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
        value = made.registry.get_sample_value
        assert value("embedship_batch_texts_count") == 2
        assert value("embedship_batch_texts_sum") == 9
        assert value("embedship_tokens_total") == value("embedship_padded_tokens_total") == 40 + 8 * 8
        assert value("embedship_queue_seconds_count", {"lane": "interactive"}) == 9


def named(thread: dict[int, str]) -> Callable[[Batch], None]:
    """Note which stream computed which text."""
    return lambda batch: thread.update(dict.fromkeys(batch.input_ids[:, 0].tolist(), current_thread().name))


def test_an_errand_is_run_by_the_device_it_is_for() -> None:
    ran: dict[int, str] = {}

    async def go(made: Bench) -> None:
        for i in range(1, 41):
            device = made.workers.devices[i % 4]
            vectors = await made.workers.encode_on(device, TokenBatch([[i] * 3], [0]))
            assert vectors.tolist() == [[i, 3, 0, 0]]

    with bench(Engine(named(ran), streams=4)) as made:
        assert made.workers.devices == ("cpu:0", "cpu:1", "cpu:2", "cpu:3")
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
        assert ran == {i: f"cpu:{i % 4}" for i in range(1, 41)}
        assert made.registry.get_sample_value("embedship_texts_total") == 0
        assert made.registry.get_sample_value("embedship_inference_seconds_count", {"device": "cpu:0"}) == 0


def test_the_second_halves_of_pairs_stay_where_they_begin() -> None:
    """Whatever batches the pairs share; a turn on the wrong row would be a wrong score, and raise nothing."""
    seen: dict[int, int] = {}

    def note(batch: Batch) -> None:
        seen.update(zip(batch.input_ids[:, 0].tolist(), batch.token_types.argmax(1).tolist(), strict=True))

    lengths = [5 + 7 * i % 23 for i in range(60)]
    turns = [1 + i % 4 for i in range(60)]
    pairs = TokenBatch([[i] * length for i, length in enumerate(lengths, 1)], [0] * 60, turns)

    async def go(made: Bench) -> None:
        with made.admission.acquire(60, Priority.BULK) as permit:
            await made.workers.encode(permit, pairs, Priority.BULK)
        await made.workers.encode_on("cpu:1", TokenBatch([[61] * 9], [0], [5]))

    with bench(Engine(note, streams=2)) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
    assert seen == {**dict(enumerate(turns, 1)), 61: 5}


def test_an_errand_waits_behind_requests_but_not_for_ever() -> None:
    entered, proceed = Event(), Event()

    def block(batch: Batch) -> None:
        entered.set()
        assert proceed.wait(SECONDS)

    engine = Engine(block, streams=1)

    async def go(made: Bench) -> None:
        first = asyncio.create_task(made.encode([[1] * 64]))
        await asyncio.to_thread(entered.wait, SECONDS)
        errand = asyncio.create_task(made.workers.encode_on("cpu:0", TokenBatch([[99]], [0])))
        await asyncio.sleep(0)
        # A batch each: the budget is 64 tokens.
        requests = [asyncio.create_task(made.encode([[i] * 64])) for i in range(2, 10)]
        await until(lambda: made.admission.inside == 9)
        proceed.set()
        await asyncio.gather(first, errand, *requests)

    with bench(engine) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
    assert engine.seen.index(99) == 1 + MAX_INTERACTIVE_STREAK


def test_an_errand_on_a_failing_device_fails_and_the_stream_lives() -> None:
    async def go(made: Bench) -> None:
        with pytest.raises(EngineFailed):
            await made.workers.encode_on("cpu:0", TokenBatch([[666]], [0]))
        assert made.workers.alive
        assert (await made.workers.encode_on("cpu:0", TokenBatch([[7]], [0])))[0, 0] == 7

    engine = Engine(lambda batch: broken(batch) if (batch.input_ids == 666).any() else None)
    with bench(engine) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))


def test_the_users_share_of_a_batch_is_counted() -> None:
    entered, proceed = Event(), Event()

    def block(batch: Batch) -> None:
        entered.set()
        assert proceed.wait(SECONDS)

    async def go(made: Bench) -> None:
        first = asyncio.create_task(made.encode([[1] * 40]))
        await asyncio.to_thread(entered.wait, SECONDS)
        with made.admission.acquire(1, Priority.BULK) as permit:
            tokens = TokenBatch([[2] * 8], [0])
            probe = asyncio.create_task(made.workers.encode(permit, tokens, Priority.BULK, counted=False))
            user = asyncio.create_task(made.encode([[3] * 8], Priority.BULK))
            await until(lambda: made.admission.inside == 3)
            proceed.set()
            await asyncio.gather(first, probe, user)

    with bench(Engine(block, streams=1)) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
        value = made.registry.get_sample_value
        assert value("embedship_texts_total") == 2
        assert value("embedship_tokens_total") == value("embedship_padded_tokens_total") == 48
        assert [value("embedship_queue_seconds_count", {"lane": lane}) for lane in Priority] == [1, 1]
        assert value("embedship_batch_tokens_sum") == 48
        assert value("embedship_batch_padding_ratio_sum") == 0
        assert value("embedship_inference_seconds_count", {"device": "cpu:0"}) == 2


def test_the_padding_of_a_batch_is_a_share_of_it() -> None:
    async def go(made: Bench) -> None:
        await made.encode([[1] * 8, [2] * 6])

    with bench(Engine(streams=1)) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))
        assert made.registry.get_sample_value("embedship_batch_tokens_sum") == 16
        assert made.registry.get_sample_value("embedship_batch_padding_ratio_sum") == pytest.approx(2 / 16)


def test_the_oldest_text_that_waits_has_an_age_until_it_is_taken_or_left() -> None:
    entered, proceed = Event(), Event()

    def block(batch: Batch) -> None:
        entered.set()
        assert proceed.wait(SECONDS)

    async def go(made: Bench) -> None:
        age = made.workers.oldest_wait_seconds
        first = asyncio.create_task(made.encode([[1] * 40]))
        await asyncio.to_thread(entered.wait, SECONDS)
        assert [age(lane) for lane in Priority] == [0, 0]
        older = asyncio.create_task(made.encode([[2] * 8], Priority.BULK))
        await until(lambda: age(Priority.BULK) > 0.2)
        younger = asyncio.create_task(made.encode([[3] * 8], Priority.BULK))
        await until(lambda: made.admission.inside == 3)
        before = age(Priority.BULK)
        assert before > 0.2
        assert age(Priority.INTERACTIVE) == 0
        older.cancel()
        await until(lambda: made.admission.inside == 2)
        assert 0 < age(Priority.BULK) < before
        proceed.set()
        await asyncio.gather(first, younger)
        assert age(Priority.BULK) == 0

    with bench(Engine(block, streams=1)) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))


def test_a_text_that_failed_with_others_goes_on_ageing() -> None:
    """Its batch is halved, and the other half holds the only stream."""
    entered, proceed = Event(), Event()

    def block(batch: Batch) -> None:
        if len(batch) > 1:
            raise EngineError("not these two together")
        entered.set()
        assert proceed.wait(SECONDS)

    async def go(made: Bench) -> None:
        both = asyncio.create_task(made.encode([[1] * 8, [2] * 8], Priority.BULK))
        await asyncio.to_thread(entered.wait, SECONDS)
        await until(lambda: made.workers.oldest_wait_seconds(Priority.BULK) > 0)
        assert made.workers.waiting() == 1
        proceed.set()
        await both
        assert made.workers.oldest_wait_seconds(Priority.BULK) == 0

    with bench(Engine(block, streams=1)) as made:
        asyncio.run(asyncio.wait_for(go(made), SECONDS))


def test_a_pass_that_hangs_in_this_process_is_no_life() -> None:
    """/health is 503 while `alive` is not: only whoever started the process can end the pass."""
    hanging, over = Event(), Event()

    def hang(batch: Batch) -> None:
        hanging.set()
        assert over.wait(SECONDS)

    async def ask() -> None:
        with bench(Engine(hang, streams=1), stall_seconds=0.05) as made:
            asked = asyncio.create_task(made.encode(texts(1, [3])))
            await asyncio.to_thread(hanging.wait, SECONDS)
            while made.workers.alive:  # noqa: ASYNC110 - a clock that passes a limit tells nobody
                await asyncio.sleep(0.01)
            assert made.workers.up == 0
            over.set()
            await asyncio.wait_for(asked, SECONDS)
            assert made.workers.alive

    asyncio.run(asyncio.wait_for(ask(), SECONDS))


def test_who_leaves_while_all_devices_are_down_is_not_counted_as_waiting() -> None:
    class Down(LocalDevice):
        up = False

    device = Down("cpu:0", Engine(), HangDetector(SECONDS))
    workers = BatchExecutor(
        [device], DIMENSION, BatchLayout(0, 512), PriorityQueue(64), ModelMetrics(CollectorRegistry())
    )
    admission = AdmissionController(100)

    async def ask(lane: Priority) -> Vectors:
        with admission.acquire(100, lane) as permit:
            return await workers.encode(permit, TokenBatch([[1] * 9] * 100, [0] * 100), lane)

    async def go() -> None:
        for _ in range(20):
            asked = asyncio.create_task(ask(Priority.INTERACTIVE))
            await until(lambda: workers.waiting() > 0)
            assert workers.waiting() == 100
            asked.cancel()
            await until(asked.done)
            assert workers.waiting() == admission.inside == 0

    try:
        asyncio.run(asyncio.wait_for(go(), SECONDS))
    finally:
        workers.close()
