from embedship.monitor.onset import StateSince, StateTimer


def test_since_is_the_time_of_the_first_report_of_a_state():
    onset = StateTimer("unknown")
    seen = [onset.since(value, at) for at, value in enumerate(["ok", "ok", "warn", "warn", "ok"])]
    assert seen == [0, 0, 2, 2, 4]


def test_unknown_has_its_own_time_and_does_not_reset_a_state():
    onset = StateTimer("unknown")
    seen = [onset.since(value, at) for at, value in enumerate(["unknown", "unknown", "warn", "unknown", "warn"])]
    assert seen == [0, 0, 2, 3, 2]


def test_a_state_continues_after_a_restart():
    assert StateTimer("unknown", StateSince("warn", 5.0)).since("warn", 99.0) == 5.0
    assert StateTimer("unknown", StateSince("warn", 5.0)).since("ok", 99.0) == 99.0
