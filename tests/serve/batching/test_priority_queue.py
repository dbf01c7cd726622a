"""Batches lose and repeat no text, begin with the oldest, keep the budget, pad little and starve no lane."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedship import stdlib_docs
from embedship.batches import PADDING, SLACK, padded_width
from embedship.bundle import Bundle
from embedship.serve.batching.priority_queue import (
    MAX_INTERACTIVE_STREAK,
    PURGE_THRESHOLD,
    RECENT_SECONDS,
    SHRINK,
    PriorityQueue,
    QueuedText,
)
from embedship.serve.telemetry.request_context import Priority
from embedship.tokens import Tokenizer

BUDGET = 200


@dataclass(eq=False)
class Client:
    cancelled: bool = False


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def queued_text(length: int, row: int = 0, client: Client | None = None) -> QueuedText[Client]:
    return QueuedText(client or Client(), row, [7] * length)


def emptied(queue: PriorityQueue[Client]) -> list[list[QueuedText[Client]]]:
    batches = []
    while batch := queue.take():
        batches.append(batch)
    return batches


texts = st.tuples(st.sampled_from(Priority), st.integers(0, 300), st.booleans())
steps = st.lists(st.one_of(texts, st.none()), max_size=120)


@given(steps)
def test_every_text_of_an_open_request_is_taken_exactly_once(script: list[tuple[Priority, int, bool] | None]) -> None:
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET)
    expected, taken = [], []
    for step in script:
        if step is None:
            taken += queue.take()
            continue
        lane, length, stays = step
        text = queued_text(length, client=Client(cancelled=not stays))
        queue.put(lane, [text])
        expected += [text] if stays else []
    taken += [text for batch in emptied(queue) for text in batch]
    assert len(taken) == len(expected)
    assert set(map(id, taken)) == set(map(id, expected))
    assert len(queue) == 0


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80))
def test_a_batch_keeps_the_budget_and_its_padding_small(lengths: list[int]) -> None:
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET)
    queue.put(Priority.INTERACTIVE, [queued_text(n, row) for row, n in enumerate(lengths)])
    for batch in emptied(queue):
        sizes = [len(text.ids) for text in batch]
        area = len(batch) * padded_width(max(sizes))
        beyond = area - sum(map(padded_width, sizes))  # padding beyond that of each text alone
        assert len(batch) == 1 or (area <= BUDGET and beyond <= max(SLACK, PADDING * sum(sizes)))
        assert len(batch).bit_count() == 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80))
def test_every_batch_holds_the_oldest_text(lengths: list[int]) -> None:
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET)
    queue.put(Priority.BULK, [queued_text(n, row) for row, n in enumerate(lengths)])
    waiting = set(range(len(lengths)))
    while waiting:
        rows = {text.row for text in queue.take()}
        assert min(waiting) in rows
        waiting -= rows


def test_texts_of_one_length_are_taken_in_order_of_arrival() -> None:
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET)
    queue.put(Priority.INTERACTIVE, [queued_text(48, row) for row in range(10)])
    assert [[text.row for text in batch] for batch in emptied(queue)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_real_lengths_pad_less_than_five_percent() -> None:
    random = Random(0)
    queue: PriorityQueue[Client] = PriorityQueue(1536)
    queue.put(
        Priority.BULK, [queued_text(min(256, int(random.lognormvariate(4, 0.8)) + 3), row) for row in range(2_000)]
    )
    batches = emptied(queue)
    real = sum(len(text.ids) for batch in batches for text in batch)
    padded = sum(len(batch) * padded_width(max(len(text.ids) for text in batch)) for batch in batches)
    assert padded / real <= 1.05
    assert real / len(batches) > 0.5 * 1536  # the batches are not tiny


def test_interactive_work_goes_first_and_bulk_is_not_starved() -> None:
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET)
    bulk, short = Client(), Client()
    queue.put(Priority.BULK, [queued_text(20, client=bulk)])
    order = []
    for _ in range(2 * MAX_INTERACTIVE_STREAK):
        queue.put(Priority.INTERACTIVE, [queued_text(100, client=short), queued_text(100, client=short)])
        order.append(queue.take()[0].request)
    assert order.index(bulk) == MAX_INTERACTIVE_STREAK


def test_bulk_batches_shrink_while_queries_come_in() -> None:
    clock = Clock()
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET, clock)
    queue.put(Priority.BULK, [queued_text(10) for _ in range(40)])
    assert len(queue.take()) == 16  # as many as fit into 200 tokens, rounded down to a power of two
    queue.put(Priority.INTERACTIVE, [queued_text(10)])
    assert len(queue.take()) == 1
    assert len(queue.take()) == 16 // SHRINK
    clock.now += RECENT_SECONDS
    assert len(queue.take()) == 16


@pytest.mark.parametrize("lane", Priority)
def test_texts_of_cancelled_requests_are_not_computed(lane: Priority) -> None:
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET)
    leaving, staying = Client(), Client()
    queue.put(lane, [queued_text(10, client=leaving), queued_text(10, client=staying), queued_text(30, client=leaving)])
    leaving.cancelled = True
    assert [text.request for text in queue.take()] == [staying]
    assert queue.take() == []
    assert len(queue) == 0


@pytest.mark.parametrize("lane", Priority)
def test_texts_of_cancelled_requests_are_dropped_while_no_stream_takes_batches(lane: Priority) -> None:
    queue: PriorityQueue[Client] = PriorityQueue(BUDGET)
    left = []
    for row in range(100):
        client = Client()
        left.append(ref(client))
        queue.put(lane, [queued_text(48, row), *(queued_text(length, client=client) for length in range(1, 101))])
        assert len(queue) == row + 101
        client.cancelled = True
        assert len(queue) == row + 1
    assert sum(client() is not None for client in left) <= PURGE_THRESHOLD / 100 + 1
    assert [[text.row for text in batch] for batch in emptied(queue)] == [
        list(range(n, n + 4)) for n in range(0, 100, 4)
    ]


@pytest.fixture(scope="module")
def real_lengths(bundle: Path) -> list[int]:
    """Token counts of real texts: summaries, which are as short as queries, and whole docstrings."""
    entries = stdlib_docs.entries(1_500)
    return Tokenizer.open(Bundle.open(bundle))([t for e in entries for t in (e.summary, e.body)]).lengths


def area(batch: list[QueuedText[Client]]) -> int:
    return len(batch) * padded_width(max(len(text.ids) for text in batch))


class Traffic:
    """Seeded requests of real lengths in virtual time. Each free stream takes the next batch.

    All texts of a request arrive together, and the request may be cancelled at any time. The rules of the queue are
    compared with this class's own record of the waiting texts.
    """

    STREAMS = 2
    SECONDS_PER_TOKEN = 1e-4

    def __init__(self, seed: int, lengths: list[int], requests: int = 250) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.queue: PriorityQueue[Client] = PriorityQueue(1536, self.clock)
        self.waiting: dict[int, tuple[Priority, QueuedText[Client]]] = {}  # by id, in order of arrival
        self.put: list[QueuedText[Client]] = []
        self.taken: list[QueuedText[Client]] = []
        self.idle = self.STREAMS
        self.passed_over = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        at = 0.0
        for _ in range(requests):
            at += self.random.expovariate(60)  # first more than two streams can compute, so that texts wait, then less
            at += 3.0 * (self.random.random() < 0.01)
            self._plan(at, lambda: self._arrive(lengths))

    def run(self) -> None:
        while self._events:
            self.clock.now, _, happen = heapq.heappop(self._events)
            happen()
            while self.idle and (batch := self.queue.take()):
                self._take(batch)
            if self.idle:
                assert not self._present(), "a stream is idle while texts wait"

    def _plan(self, at: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), happen))

    def _arrive(self, lengths: list[int]) -> None:
        lane = self.random.choice(list(Priority))
        client, texts = Client(), 1 if lane is Priority.INTERACTIVE else self.random.randint(1, 40)
        added = [queued_text(self.random.choice(lengths), row, client) for row in range(texts)]
        self.queue.put(lane, added)
        self.put += added
        self.waiting |= {id(text): (lane, text) for text in added}
        if self.random.random() < 0.2:
            self._plan(self.clock.now + self.random.expovariate(5), lambda: setattr(client, "cancelled", True))

    def _take(self, batch: list[QueuedText[Client]]) -> None:
        present = self._present()
        lanes = {self.waiting[id(text)][0] for text in batch}  # a KeyError means: taken twice, or never put
        assert len(lanes) == 1, "a batch is of one lane"
        assert not any(text.request.cancelled for text in batch), "its request was cancelled"
        self._check_turns(lanes.pop(), {lane for lane, _ in present})
        for text in batch:
            lane, _ = self.waiting.pop(id(text))
            same = [w for each, w in present if each is lane and len(w.ids) == len(text.ids) and w not in batch]
            assert not same or self.put.index(text) < min(map(self.put.index, same)), "an older one of its length waits"
        self.taken += batch
        self.idle -= 1
        seconds = area(batch) * self.SECONDS_PER_TOKEN
        self._plan(self.clock.now + seconds, self._finish)

    def _check_turns(self, lane: Priority, waiting: set[Priority]) -> None:
        """Interactive texts go first. Bulk goes before them only after MAX_INTERACTIVE_STREAK batches, then at once."""
        if lane is Priority.BULK:
            assert Priority.INTERACTIVE not in waiting or self.passed_over >= MAX_INTERACTIVE_STREAK, (
                "bulk before interactive"
            )
        else:
            assert Priority.BULK not in waiting or self.passed_over < MAX_INTERACTIVE_STREAK, "bulk starves"
        self.passed_over = self.passed_over + 1 if lane is Priority.INTERACTIVE and Priority.BULK in waiting else 0

    def _finish(self) -> None:
        self.idle += 1

    def _present(self) -> list[tuple[Priority, QueuedText[Client]]]:
        return [(lane, text) for lane, text in self.waiting.values() if not text.request.cancelled]


@pytest.mark.parametrize("seed", range(8))
def test_traffic_is_served_by_the_rules(seed: int, real_lengths: list[int]) -> None:
    traffic = Traffic(seed, real_lengths)
    traffic.run()
    assert len(traffic.taken) == len(set(map(id, traffic.taken))), "twice"
    lost = {id(text) for text in traffic.put if not text.request.cancelled} - set(map(id, traffic.taken))
    assert not lost
    left = [text for text in traffic.put if text.request.cancelled]
    dropped = [text for text in left if id(text) not in set(map(id, traffic.taken))]
    assert len(dropped) > 10, "clients must leave while they wait for this test to mean anything"
    assert len(traffic.queue) == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lane", Priority)
def test_real_texts_pad_less_than_five_percent(seed: int, lane: Priority, real_lengths: list[int]) -> None:
    """Also for a queue that is refilled again and again, not only when all texts can be sorted at once."""
    random, queue = Random(seed), PriorityQueue[Client](1536)
    batches: list[list[QueuedText[Client]]] = []
    for _ in range(60):
        queue.put(lane, [queued_text(length) for length in random.sample(real_lengths, 64)])
        batches += filter(None, (queue.take() for _ in range(4)))
    real = sum(len(text.ids) for batch in batches for text in batch)
    padded = sum(map(area, batches))
    assert len(batches) == 240
    assert padded / real <= 1.05, f"{padded / real:.3f}"
