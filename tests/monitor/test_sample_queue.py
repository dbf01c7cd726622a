from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedship.monitor import sample_queue
from embedship.monitor.sample_queue import QuerySample, SampleQueue

LONG = 120.0  # timeout in seconds


def call(n):
    picked = np.ones(n, dtype=np.bool_)
    return QuerySample(np.zeros((n, 4), dtype=np.float32), None, picked, picked, at=1.0, call=-1, texts=None)


@pytest.fixture
def slow_queue(monkeypatch):
    """A queue of ten that gathers for longer than a test may take, unless something ends the wait."""
    monkeypatch.setattr(sample_queue, "GATHERED_SECONDS", 2 * LONG)
    return SampleQueue(10)


def taken(queue):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(queue.take, LONG).result(LONG)


def test_a_mark_is_returned_at_once_with_everything_before_it(slow_queue):
    first, second = call(2), call(3)
    assert slow_queue.offer(first)
    assert slow_queue.offer(second)
    mark = slow_queue.mark()
    assert taken(slow_queue) == [first, second, mark]
    assert slow_queue.offer(call(5)), "what was taken has left the queue"


def test_a_full_queue_is_returned_at_once(slow_queue):
    offered = [call(3), call(3)]
    for each in offered:
        assert slow_queue.offer(each)
    assert taken(slow_queue) == offered


def test_filling_the_queue_ends_the_wait(slow_queue):
    offered = [call(3), call(3)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slow_queue.take, LONG)
        for each in offered:
            assert slow_queue.offer(each)
        assert waiting.result(LONG) == offered


def test_closing_ends_the_wait(slow_queue):
    slow_queue.offer(call(2))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slow_queue.take, LONG)
        assert slow_queue.close() == 2
        assert waiting.result(LONG) == []
    assert not slow_queue.offer(call(1))


def test_samples_that_arrive_together_are_returned_together(monkeypatch):
    monkeypatch.setattr(sample_queue, "GATHERED_SECONDS", 0.0)
    queue = SampleQueue(10)
    offered = [call(1), call(1)]
    for each in offered:
        queue.offer(each)
    assert queue.take(0.0) == offered
    assert queue.take(0.0) == []
