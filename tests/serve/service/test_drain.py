from __future__ import annotations

from embedship.serve.service.drain import GracefulShutdown


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_over_before_it_began() -> None:
    clock = Clock()
    drain = GracefulShutdown(1.0, clock)
    clock.now = 100
    assert not drain.may_stop


def test_it_ends_when_no_request_has_come_for_a_while() -> None:
    clock = Clock()
    drain = GracefulShutdown(30.0, clock)
    drain.begin(quiet_seconds=2.0)
    clock.now = 1.9
    drain.enter()
    drain.leave()
    clock.now = 3.8
    assert not drain.may_stop
    clock.now = 3.9
    assert drain.may_stop


def test_a_request_inside_keeps_it_open_until_time_is_up() -> None:
    clock = Clock()
    drain = GracefulShutdown(30.0, clock)
    drain.enter()
    drain.begin(quiet_seconds=0.0)
    clock.now = 29.9
    assert not drain.may_stop
    clock.now = 30.0
    assert drain.may_stop
