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


def test_a_permit_is_held_for_the_block_and_returned_whatever_happens() -> None:
    admission = AdmissionController(8)

    def work() -> None:
        with admission.acquire(5, Priority.INTERACTIVE) as permit:
            assert (permit.texts, admission.inside) == (5, 5)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert admission.inside == 0


def test_a_full_queue_says_when_to_come_back() -> None:
    clock = Clock()
    admission = AdmissionController(100, clock)
    for _ in range(10):  # 10 texts a second
        clock.now += 1
        with admission.acquire(10, Priority.INTERACTIVE):
            pass
    with admission.acquire(100, Priority.INTERACTIVE), pytest.raises(Overloaded) as caught:
        admission.acquire(30, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "3"}
    assert admission.inside == 0


def test_before_anything_was_measured_a_second_is_asked_for() -> None:
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


def test_what_can_never_enter_is_not_asked_to_come_back() -> None:
    with pytest.raises(TooLarge, match="at most 14"):
        AdmissionController(16).acquire(15, Priority.BULK)


def test_what_does_not_go_through_the_model_says_nothing_of_its_pace() -> None:
    clock = Clock()
    admission = AdmissionController(100, clock)
    for _ in range(10):  # 10 texts a second through the model, and 80 that are only tokenised
        clock.now += 1
        with admission.acquire(10, Priority.INTERACTIVE), admission.acquire(80, Priority.INTERACTIVE, paced=False):
            pass
    with admission.acquire(100, Priority.INTERACTIVE), pytest.raises(Overloaded) as caught:
        admission.acquire(30, Priority.INTERACTIVE)
    assert caught.value.headers == {"Retry-After": "3"}
