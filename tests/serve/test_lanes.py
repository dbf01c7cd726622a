"""The core of batching: nothing lost, nothing twice, oldest first, budget kept, padding small, nobody starved."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedship.plan import PADDING, SLACK, rounded
from embedship.serve.lanes import PATIENCE, RECENT_SECONDS, SHRINK, Lane, Lanes, Work

BUDGET = 200


@dataclass(eq=False)
class Client:
    gone: bool = False


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def work(length: int, row: int = 0, client: Client | None = None) -> Work[Client]:
    return Work(client or Client(), row, [7] * length)


def emptied(lanes: Lanes[Client]) -> list[list[Work[Client]]]:
    batches = []
    while batch := lanes.take():
        batches.append(batch)
    return batches


texts = st.tuples(st.sampled_from(Lane), st.integers(0, 300), st.booleans())
steps = st.lists(st.one_of(texts, st.none()), max_size=120)


@given(steps)
def test_every_text_whose_client_waits_is_taken_exactly_once(script: list[tuple[Lane, int, bool] | None]) -> None:
    lanes: Lanes[Client] = Lanes(BUDGET)
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
    lanes: Lanes[Client] = Lanes(BUDGET)
    lanes.put(Lane.INTERACTIVE, [work(n, row) for row, n in enumerate(lengths)])
    for batch in emptied(lanes):
        sizes = [len(one.ids) for one in batch]
        area = len(batch) * rounded(max(sizes))
        assert len(batch) == 1 or (area <= BUDGET and area - sum(sizes) <= max(SLACK, PADDING * sum(sizes)))
        assert len(batch).bit_count() == 1


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80))
def test_every_batch_holds_the_oldest_text(lengths: list[int]) -> None:
    lanes: Lanes[Client] = Lanes(BUDGET)
    lanes.put(Lane.BULK, [work(n, row) for row, n in enumerate(lengths)])
    waiting = set(range(len(lengths)))
    while waiting:
        rows = {one.row for one in lanes.take()}
        assert min(waiting) in rows
        waiting -= rows


def test_texts_of_one_length_leave_in_the_order_they_came() -> None:
    lanes: Lanes[Client] = Lanes(BUDGET)
    lanes.put(Lane.INTERACTIVE, [work(50, row) for row in range(10)])
    assert [[one.row for one in batch] for batch in emptied(lanes)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_real_lengths_pad_less_than_five_percent() -> None:
    random = Random(0)
    lanes: Lanes[Client] = Lanes(1536)
    lanes.put(Lane.BULK, [work(min(256, int(random.lognormvariate(4, 0.8)) + 3), row) for row in range(2_000)])
    batches = emptied(lanes)
    real = sum(len(one.ids) for batch in batches for one in batch)
    padded = sum(len(batch) * rounded(max(len(one.ids) for one in batch)) for batch in batches)
    assert padded / real <= 1.05
    assert real / len(batches) > 0.5 * 1536  # and not by way of tiny batches


def test_interactive_work_goes_first_and_bulk_is_not_starved() -> None:
    lanes: Lanes[Client] = Lanes(BUDGET)
    bulk, short = Client(), Client()
    lanes.put(Lane.BULK, [work(20, client=bulk)])
    order = []
    for _ in range(2 * PATIENCE):
        lanes.put(Lane.INTERACTIVE, [work(100, client=short), work(100, client=short)])
        order.append(lanes.take()[0].owner)
    assert order.index(bulk) == PATIENCE


def test_bulk_batches_shrink_while_queries_come_in() -> None:
    clock = Clock()
    lanes: Lanes[Client] = Lanes(BUDGET, clock)
    lanes.put(Lane.BULK, [work(10) for _ in range(40)])
    assert len(lanes.take()) == 16  # what 200 tokens hold, down to a power of two
    lanes.put(Lane.INTERACTIVE, [work(10)])
    assert len(lanes.take()) == 1
    assert len(lanes.take()) == 16 // SHRINK
    clock.now += RECENT_SECONDS
    assert len(lanes.take()) == 16


@pytest.mark.parametrize("lane", Lane)
def test_departed_clients_cost_nothing(lane: Lane) -> None:
    lanes: Lanes[Client] = Lanes(BUDGET)
    leaving, staying = Client(), Client()
    lanes.put(lane, [work(10, client=leaving), work(10, client=staying), work(30, client=leaving)])
    leaving.gone = True
    assert [one.owner for one in lanes.take()] == [staying]
    assert lanes.take() == []
    assert len(lanes) == 0
