import numpy as np

from embedship.monitor.drift.window import QueryRing, QueryWindow


def part(first, n):
    numbers = np.arange(first, first + n)
    return QueryWindow(numbers[:, None].astype(np.float32), numbers.astype(float), numbers, tuple(map(str, numbers)))


def test_the_last_are_kept_in_their_order_whatever_the_calls_were():
    random, recent, seen = np.random.default_rng(0), QueryRing(100), 0
    assert recent.window() is None
    for n in random.integers(0, 150, 40):
        recent.extend(part(seen, n))
        seen += n
        if random.random() < 0.5 or not seen:
            continue
        window = recent.window()
        expected = list(range(max(0, seen - 100), seen))
        assert window.vectors[:, 0].tolist() == window.times.tolist() == window.calls.tolist() == expected
        assert window.texts == tuple(map(str, expected))


def test_a_hundred_thousand_queries_take_the_memory_of_the_window():
    recent = QueryRing(1_000)
    for first in range(0, 100_000, 7):
        recent.extend(part(first, 7))
    assert len(recent) <= 1_000 + 7
    assert len(recent.window()) == 1_000


def test_what_left_is_in_no_memory_any_more():
    recent = QueryRing(1_000)
    for _ in range(2):
        recent.extend(part(0, 999))
    window = recent.window()
    for kept in (window.vectors, window.times, window.calls):
        assert len(kept) == 1_000
        assert kept.base is None  # a view would keep the rows that it leaves out
