"""The core of batching: nothing lost, nothing twice, oldest first, budget kept, padding small, nobody starved."""

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


def work(length: int, row: int = 0, client: Client | None = None) -> QueuedText[Client]:
    return QueuedText(client or Client(), row, [7] * length)


def emptied(lanes: PriorityQueue[Client]) -> list[list[QueuedText[Client]]]:
    batches = []
    while batch := lanes.take():
        batches.append(batch)
    return batches


texts = st.tuples(st.sampled_from(Priority), st.integers(0, 300), st.booleans())
steps = st.lists(st.one_of(texts, st.none()), max_size=120)


@given(steps)
def test_every_text_whose_client_waits_is_taken_exactly_once(script: list[tuple[Priority, int, bool] | None]) -> None:
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET)
    expected, taken = [], []
    for step in script:
        if step is None:
            taken += lanes.take()
            continue
        lane, length, stays = step
        one = work(length, client=Client(gone=not stays))
        lanes.put(lane, [one])
        expected += [one] if stays else []
    taken += [one for batch in emptied(lanes) for one in batch]
    assert len(taken) == len(expected)
    assert set(map(id, taken)) == set(map(id, expected))
    assert len(lanes) == 0


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80))
def test_a_batch_keeps_the_budget_and_its_padding_small(lengths: list[int]) -> None:
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET)
    lanes.put(Priority.INTERACTIVE, [work(n, row) for row, n in enumerate(lengths)])
    for batch in emptied(lanes):
        sizes = [len(one.ids) for one in batch]
        area = len(batch) * padded_width(max(sizes))
        beyond = area - sum(map(padded_width, sizes))  # more than each text alone is padded
        assert len(batch) == 1 or (area <= BUDGET and beyond <= max(SLACK, PADDING * sum(sizes)))
        assert len(batch).bit_count() == 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80))
def test_every_batch_holds_the_oldest_text(lengths: list[int]) -> None:
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET)
    lanes.put(Priority.BULK, [work(n, row) for row, n in enumerate(lengths)])
    waiting = set(range(len(lengths)))
    while waiting:
        rows = {one.row for one in lanes.take()}
        assert min(waiting) in rows
        waiting -= rows


def test_texts_of_one_length_leave_in_the_order_they_came() -> None:
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET)
    lanes.put(Priority.INTERACTIVE, [work(48, row) for row in range(10)])
    assert [[one.row for one in batch] for batch in emptied(lanes)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_real_lengths_pad_less_than_five_percent() -> None:
    random = Random(0)
    lanes: PriorityQueue[Client] = PriorityQueue(1536)
    lanes.put(Priority.BULK, [work(min(256, int(random.lognormvariate(4, 0.8)) + 3), row) for row in range(2_000)])
    batches = emptied(lanes)
    real = sum(len(one.ids) for batch in batches for one in batch)
    padded = sum(len(batch) * padded_width(max(len(one.ids) for one in batch)) for batch in batches)
    assert padded / real <= 1.05
    assert real / len(batches) > 0.5 * 1536  # and not by way of tiny batches


def test_interactive_work_goes_first_and_bulk_is_not_starved() -> None:
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET)
    bulk, short = Client(), Client()
    lanes.put(Priority.BULK, [work(20, client=bulk)])
    order = []
    for _ in range(2 * MAX_INTERACTIVE_STREAK):
        lanes.put(Priority.INTERACTIVE, [work(100, client=short), work(100, client=short)])
        order.append(lanes.take()[0].owner)
    assert order.index(bulk) == MAX_INTERACTIVE_STREAK


def test_bulk_batches_shrink_while_queries_come_in() -> None:
    clock = Clock()
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET, clock)
    lanes.put(Priority.BULK, [work(10) for _ in range(40)])
    assert len(lanes.take()) == 16  # what 200 tokens hold, down to a power of two
    lanes.put(Priority.INTERACTIVE, [work(10)])
    assert len(lanes.take()) == 1
    assert len(lanes.take()) == 16 // SHRINK
    clock.now += RECENT_SECONDS
    assert len(lanes.take()) == 16


@pytest.mark.parametrize("lane", Priority)
def test_departed_clients_cost_nothing(lane: Priority) -> None:
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET)
    leaving, staying = Client(), Client()
    lanes.put(lane, [work(10, client=leaving), work(10, client=staying), work(30, client=leaving)])
    leaving.cancelled = True
    assert [one.owner for one in lanes.take()] == [staying]
    assert lanes.take() == []
    assert len(lanes) == 0


@pytest.mark.parametrize("lane", Priority)
def test_departed_clients_are_forgotten_while_no_stream_takes(lane: Priority) -> None:
    lanes: PriorityQueue[Client] = PriorityQueue(BUDGET)
    left = []
    for row in range(100):
        client = Client()
        left.append(ref(client))
        lanes.put(lane, [work(48, row), *(work(length, client=client) for length in range(1, 101))])
        assert len(lanes) == row + 101
        client.cancelled = True
        assert len(lanes) == row + 1
    assert sum(client() is not None for client in left) <= PURGE_THRESHOLD / 100 + 1
    assert [[one.row for one in batch] for batch in emptied(lanes)] == [list(range(n, n + 4)) for n in range(0, 100, 4)]


@pytest.fixture(scope="module")
def real_lengths(bundle: Path) -> list[int]:
    """Tokens of real texts as the model reads them: summaries, which are as short as queries, and whole docstrings."""
    entries = stdlib_docs.entries(1_500)
    return Tokenizer.open(Bundle.open(bundle))([t for e in entries for t in (e.summary, e.body)]).lengths


def area(batch: list[QueuedText[Client]]) -> int:
    return len(batch) * padded_width(max(len(one.ids) for one in batch))


class Traffic:
    """Seeded requests on virtual time, of real lengths, through lanes and streams that each take what is there.

    A request is all its texts; its client may leave at any moment, as a deadline does that passes. Each rule of the
    lanes is held against this class' own account of who waits.
    """

    STREAMS = 2
    SECONDS_PER_TOKEN = 1e-4

    def __init__(self, seed: int, lengths: list[int], requests: int = 250) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.lanes: PriorityQueue[Client] = PriorityQueue(1536, self.clock)
        self.waiting: dict[int, tuple[Priority, QueuedText[Client]]] = {}  # by id, in order of arrival
        self.put: list[QueuedText[Client]] = []
        self.taken: list[QueuedText[Client]] = []
        self.idle = self.STREAMS
        self.passed_over = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        at = 0.0
        for _ in range(requests):
            at += self.random.expovariate(60)  # more than two streams can do, so that work waits, and then less
            at += 3.0 * (self.random.random() < 0.01)
            self._plan(at, lambda: self._arrive(lengths))

    def run(self) -> None:
        while self._events:
            self.clock.now, _, happen = heapq.heappop(self._events)
            happen()
            while self.idle and (batch := self.lanes.take()):
                self._take(batch)
            if self.idle:
                assert not self._present(), "a stream idles while somebody waits"

    def _plan(self, at: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), happen))

    def _arrive(self, lengths: list[int]) -> None:
        lane = self.random.choice(list(Priority))
        client, texts = Client(), 1 if lane is Priority.INTERACTIVE else self.random.randint(1, 40)
        works = [work(self.random.choice(lengths), row, client) for row in range(texts)]
        self.lanes.put(lane, works)
        self.put += works
        self.waiting |= {id(one): (lane, one) for one in works}
        if self.random.random() < 0.2:
            self._plan(self.clock.now + self.random.expovariate(5), lambda: setattr(client, "cancelled", True))

    def _take(self, batch: list[QueuedText[Client]]) -> None:
        present = self._present()
        lanes = {self.waiting[id(one)][0] for one in batch}  # a KeyError: taken twice, or never put
        assert len(lanes) == 1, "a batch is of one lane"
        assert not any(one.owner.cancelled for one in batch), "nobody waits for it"
        self._hold_turns(lanes.pop(), {lane for lane, _ in present})
        for one in batch:
            lane, _ = self.waiting.pop(id(one))
            same = [w for each, w in present if each is lane and len(w.ids) == len(one.ids) and w not in batch]
            assert not same or self.put.index(one) < min(map(self.put.index, same)), "an older one of its length waits"
        self.taken += batch
        self.idle -= 1
        seconds = area(batch) * self.SECONDS_PER_TOKEN
        self._plan(self.clock.now + seconds, self._finish)

    def _hold_turns(self, lane: Priority, waiting: set[Priority]) -> None:
        """Interactive first; bulk before it only after PATIENCE batches, and then at once."""
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
        return [(lane, one) for lane, one in self.waiting.values() if not one.owner.cancelled]


@pytest.mark.parametrize("seed", range(8))
def test_traffic_is_served_by_the_rules(seed: int, real_lengths: list[int]) -> None:
    traffic = Traffic(seed, real_lengths)
    traffic.run()
    assert len(traffic.taken) == len(set(map(id, traffic.taken))), "twice"
    lost = {id(one) for one in traffic.put if not one.owner.cancelled} - set(map(id, traffic.taken))
    assert not lost
    left = [one for one in traffic.put if one.owner.cancelled]
    dropped = [one for one in left if id(one) not in set(map(id, traffic.taken))]
    assert len(dropped) > 10, "clients must leave while they wait for this test to mean anything"
    assert len(traffic.lanes) == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lane", Priority)
def test_real_texts_pad_less_than_five_percent(seed: int, lane: Priority, real_lengths: list[int]) -> None:
    """While work waits, in a queue that is filled again and again: not only when all of it may be sorted at once."""
    random, lanes = Random(seed), PriorityQueue[Client](1536)
    batches: list[list[QueuedText[Client]]] = []
    for _ in range(60):
        lanes.put(lane, [work(length) for length in random.sample(real_lengths, 64)])
        batches += filter(None, (lanes.take() for _ in range(4)))
    real = sum(len(one.ids) for batch in batches for one in batch)
    padded = sum(map(area, batches))
    assert len(batches) == 240
    assert padded / real <= 1.05, f"{padded / real:.3f}"
