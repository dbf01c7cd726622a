from itertools import product
from pathlib import Path

import pytest

from embedship.monitor.diagnosis import TABLE, Cause, Change, Signals, diagnose
from embedship.monitor.state import State

STATES = [None, *State]
NAMES = Signals.__struct_fields__
CALM = dict.fromkeys(NAMES, State.OK)


def cause(changed=Change.NOTHING, **changes):
    return diagnose(Signals(**{**CALM, **changes}), changed).cause


ALONE = [
    ("canary", Cause.MODEL_CHANGED),
    ("drift", Cause.USERS_CHANGED),
    ("shadow", Cause.INDEX_DEGRADED),
    ("probe", Cause.LABELS_STALE),
    ("feedback", Cause.UNKNOWN),
]


@pytest.mark.parametrize(("signal", "expected"), ALONE)
def test_each_signal_alone_has_its_own_cause(signal, expected):
    assert cause(**{signal: State.WARN}) is expected


def test_all_ok_is_none_and_what_is_not_watched_does_not_matter():
    assert cause() is Cause.NONE
    assert diagnose(Signals(canary=State.OK)).cause is Cause.NONE


@pytest.mark.parametrize("signal", NAMES)
def test_a_signal_without_evidence_is_never_folded_into_none(signal):
    assert cause(**{signal: State.UNKNOWN}) is Cause.UNKNOWN


def everything():
    """Every combination of states, and of what changed."""
    signals = [Signals(**dict(zip(NAMES, states, strict=True))) for states in product(STATES, repeat=len(NAMES))]
    return list(product(signals, Change))


def test_every_combination_has_a_cause_that_its_signals_carry():
    """4^5 x 4 of them: a cause is named only where the signal that defines it warns; the model is cleared first."""
    for signals, changed in everything():
        found = diagnose(signals, changed).cause
        warns = {name for name in NAMES if getattr(signals, name) is State.WARN}
        if signals.canary is State.WARN:
            assert found is Cause.MODEL_CHANGED
        if found is Cause.NONE:
            assert not warns
            assert signals.canary is State.OK
        if found is Cause.USERS_CHANGED:
            assert "drift" in warns
        if found is Cause.INDEX_DEGRADED:
            assert "shadow" in warns or ("probe" in warns and changed is Change.INDEX)
        if found is Cause.MODEL_WORSE:
            assert "probe" in warns
            assert changed is Change.MODEL
        if found is Cause.LABELS_STALE:
            assert changed in (Change.NOTHING, Change.DOCUMENTS)
            assert "probe" in warns
            assert signals.canary is State.OK
            assert "shadow" not in warns


def test_no_row_is_dead():
    decided = {diagnose(*each).reason for each in everything()}
    assert {row.reason for row in TABLE} <= decided
    assert len(decided) == len(TABLE) + 2


def test_an_index_that_answers_the_probes_and_not_the_new_queries():
    assert cause(drift=State.WARN, shadow=State.WARN) is Cause.USERS_CHANGED
    assert cause(drift=State.WARN, shadow=State.WARN, probe=None) is Cause.USERS_CHANGED
    assert cause(drift=State.WARN, shadow=State.WARN, probe=State.WARN) is Cause.INDEX_DEGRADED
    assert cause(Change.INDEX, drift=State.WARN, shadow=State.WARN) is Cause.INDEX_DEGRADED


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (Change.NOTHING, Cause.LABELS_STALE),
        (Change.DOCUMENTS, Cause.LABELS_STALE),
        (Change.INDEX, Cause.INDEX_DEGRADED),
        (Change.MODEL, Cause.MODEL_WORSE),
    ],
)
def test_probes_that_fall_are_blamed_on_what_changed(changed, expected):
    assert cause(changed, probe=State.WARN) is expected


def test_the_page_shows_the_table():
    """docs/monitoring.md, row by row: state names, `calm` for ok or not watched, empty for any."""
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "| `" in line]
    shown = [(*row[:6], row[6].strip("`")) for row in rows if len(row) == 8]
    names = {frozenset(): "", frozenset({State.OK, None}): "calm"}
    table = [(*(names[cell] if cell in names else "".join(cell) for cell in row[:6]), row.cause.value) for row in TABLE]
    assert shown == [*table, ("", "", "", "", "", "", "unknown")]
