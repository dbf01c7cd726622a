from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedship.monitor import sample_queue
from embedship.monitor.sample_queue import QuerySample, SampleQueue

LONG = 120.0  # seconds after which a test has failed


def call(n):
    picked = np.ones(n, dtype=np.bool_)
    return QuerySample(np.zeros((n, 4), dtype=np.float32), None, picked, picked, at=1.0, call=-1, texts=None)


@pytest.fixture
def patient(monkeypatch):
    """A queue of ten that goes on gathering for longer than a test may take, unless something presses."""
    monkeypatch.setattr(sample_queue, "GATHERED_SECONDS", 2 * LONG)
    return SampleQueue(10)


def taken(queue):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(queue.take, LONG).result(LONG)


def test_a_mark_is_not_kept_waiting_and_all_before_it_comes_with_it(patient):
    first, second = call(2), call(3)
    assert patient.offer(first)
    assert patient.offer(second)
    mark = patient.mark()
    assert taken(patient) == [first, second, mark]
    assert patient.offer(call(5)), "what was taken has left the queue"


def test_a_queue_that_fills_is_not_kept_waiting(patient):
    offered = [call(3), call(3)]
    for each in offered:
        assert patient.offer(each)
    assert taken(patient) == offered


def test_what_fills_it_wakes_who_gathers(patient):
    offered = [call(3), call(3)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(patient.take, LONG)
        for each in offered:
            assert patient.offer(each)
        assert waiting.result(LONG) == offered


def test_who_gathers_is_woken_by_the_end(patient):
    patient.offer(call(2))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(patient.take, LONG)
        assert patient.close() == 2
        assert waiting.result(LONG) == []
    assert not patient.offer(call(1))


def test_what_comes_in_a_moment_is_taken_together(monkeypatch):
    monkeypatch.setattr(sample_queue, "GATHERED_SECONDS", 0.0)
    queue = SampleQueue(10)
    offered = [call(1), call(1)]
    for each in offered:
        queue.offer(each)
    assert queue.take(0.0) == offered
    assert queue.take(0.0) == []
