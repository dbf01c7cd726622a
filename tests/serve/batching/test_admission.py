from __future__ import annotations

import pytest

from embedship.serve.batching.admission import AdmissionController
from embedship.serve.errors import Overloaded, TooLarge
from embedship.serve.telemetry.request_context import Priority


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_permit_is_held_for_the_block_and_returned_even_after_an_error() -> None:
    admission = AdmissionController(8)

    def work() -> None:
        with admission.acquire(5, Priority.INTERACTIVE) as permit:
            assert (permit.texts, admission.inside) == (5, 5)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert admission.inside == 0


def finish(admission: AdmissionController, clock: Clock, texts: int, seconds: float) -> None:
    """A request whose texts the model finishes after so many seconds."""
    with admission.acquire(texts, Priority.INTERACTIVE) as permit:
        clock.now += seconds
        permit.record_finished(texts)


def test_idle_time_does_not_count_as_slowness() -> None:
    """One text a minute, each in 0.1 s: the queue clears at 10 texts per second, not at one per minute."""
    clock = Clock()
    admission = AdmissionController(100, clock)
    for _ in range(60):
        clock.now += 60
        finish(admission, clock, 1, seconds=0.1)
    with admission.acquire(100, Priority.INTERACTIVE), pytest.raises(Overloaded) as caught:
        admission.acquire(30, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "3"}


def test_texts_of_a_request_that_still_runs_count_for_the_throughput() -> None:
    clock = Clock()
    admission = AdmissionController(100, clock)
    with admission.acquire(100, Priority.INTERACTIVE) as permit:
        clock.now += 4
        permit.record_finished(80)
        with pytest.raises(Overloaded) as caught:
            admission.acquire(40, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "2"}


def test_texts_that_were_given_up_do_not_count_for_the_throughput() -> None:
    clock = Clock()
    admission = AdmissionController(100, clock)
    finish(admission, clock, 10, seconds=1)
    for _ in range(5):
        with admission.acquire(100, Priority.INTERACTIVE):
            pass
    with admission.acquire(100, Priority.INTERACTIVE), pytest.raises(Overloaded) as caught:
        admission.acquire(30, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "3"}


def test_a_full_queue_says_when_to_retry() -> None:
    clock = Clock()
    admission = AdmissionController(100, clock)
    for _ in range(10):  # 10 texts per second
        finish(admission, clock, 10, seconds=1)
    with admission.acquire(100, Priority.INTERACTIVE), pytest.raises(Overloaded) as caught:
        admission.acquire(30, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "3"}
    assert admission.inside == 0


def test_retry_after_is_one_second_before_anything_was_measured() -> None:
    admission = AdmissionController(4)
    with admission.acquire(4, Priority.INTERACTIVE), pytest.raises(Overloaded) as caught:
        admission.acquire(1, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "1"}


def test_bulk_leaves_room_for_queries() -> None:
    admission = AdmissionController(16)
    with admission.acquire(14, Priority.BULK):
        with pytest.raises(Overloaded):
            admission.acquire(1, Priority.BULK)
        with admission.acquire(2, Priority.INTERACTIVE):
            assert admission.inside == 16


def test_a_request_larger_than_the_queue_is_refused_for_good() -> None:
    with pytest.raises(TooLarge, match="at most 14"):
        AdmissionController(16).acquire(15, Priority.BULK)


def test_texts_that_are_only_tokenised_do_not_count_for_the_throughput() -> None:
    clock = Clock()
    admission = AdmissionController(100, clock)
    for _ in range(10):  # 10 texts per second through the model, and 80 that are only tokenised
        with admission.acquire(80, Priority.INTERACTIVE, uses_model=False):
            finish(admission, clock, 10, seconds=1)
    with admission.acquire(100, Priority.INTERACTIVE), pytest.raises(Overloaded) as caught:
        admission.acquire(30, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "3"}
