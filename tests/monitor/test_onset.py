from embedship.monitor.onset import StateSince, StateTimer


def test_a_run_began_when_its_value_came():
    onset = StateTimer("unknown")
    seen = [onset.since(value, at) for at, value in enumerate(["ok", "ok", "warn", "warn", "ok"])]
    assert seen == [0, 0, 2, 2, 4]


def test_a_silence_has_its_own_beginning_and_ends_no_run():
    onset = StateTimer("unknown")
    seen = [onset.since(value, at) for at, value in enumerate(["unknown", "unknown", "warn", "unknown", "warn"])]
    assert seen == [0, 0, 2, 3, 2]


def test_what_was_before_a_restart_goes_on():
    assert StateTimer("unknown", StateSince("warn", 5.0)).since("warn", 99.0) == 5.0
    assert StateTimer("unknown", StateSince("warn", 5.0)).since("ok", 99.0) == 99.0
