from itertools import product
from pathlib import Path

import pytest

from embedship.monitor.diagnosis import TABLE, BaselineChange, DiagnosisCause, MonitorSignals, diagnose
from embedship.monitor.state import SignalState

STATES = [None, *SignalState]
NAMES = MonitorSignals.__struct_fields__
CALM = dict.fromkeys(NAMES, SignalState.OK)


def cause(changed=BaselineChange.NOTHING, **changes):
    return diagnose(MonitorSignals(**{**CALM, **changes}), changed).cause


ALONE = [
    ("canary", DiagnosisCause.MODEL_CHANGED),
    ("drift", DiagnosisCause.USERS_CHANGED),
    ("shadow", DiagnosisCause.INDEX_DEGRADED),
    ("probe", DiagnosisCause.LABELS_STALE),
    ("feedback", DiagnosisCause.UNKNOWN),
]


@pytest.mark.parametrize(("signal", "expected"), ALONE)
def test_each_signal_alone_has_its_own_cause(signal, expected):
    assert cause(**{signal: SignalState.WARN}) is expected


def test_all_ok_is_none_and_what_is_not_watched_does_not_matter():
    assert cause() is DiagnosisCause.NONE
    assert diagnose(MonitorSignals(canary=SignalState.OK)).cause is DiagnosisCause.NONE


@pytest.mark.parametrize("signal", NAMES)
def test_a_signal_without_evidence_is_never_folded_into_none(signal):
    assert cause(**{signal: SignalState.UNKNOWN}) is DiagnosisCause.UNKNOWN


def everything():
    """Every combination of states, and of what changed."""
    signals = [MonitorSignals(**dict(zip(NAMES, states, strict=True))) for states in product(STATES, repeat=len(NAMES))]
    return list(product(signals, BaselineChange))


def test_every_combination_has_a_cause_that_its_signals_carry():
    """4^5 x 4 of them: a cause is named only where the signal that defines it warns; the model is cleared first."""
    for signals, changed in everything():
        found = diagnose(signals, changed).cause
        warns = {name for name in NAMES if getattr(signals, name) is SignalState.WARN}
        if signals.canary is SignalState.WARN:
            assert found is DiagnosisCause.MODEL_CHANGED
        if found is DiagnosisCause.NONE:
            assert not warns
            assert signals.canary is SignalState.OK
        if found is DiagnosisCause.USERS_CHANGED:
            assert "drift" in warns
        if found is DiagnosisCause.INDEX_DEGRADED:
            assert "shadow" in warns or ("probe" in warns and changed is BaselineChange.INDEX)
        if found is DiagnosisCause.MODEL_WORSE:
            assert "probe" in warns
            assert changed is BaselineChange.MODEL
        if found is DiagnosisCause.LABELS_STALE:
            assert changed in (BaselineChange.NOTHING, BaselineChange.DOCUMENTS)
            assert "probe" in warns
            assert signals.canary is SignalState.OK
            assert "shadow" not in warns


def test_no_row_is_dead():
    decided = {diagnose(*each).reason for each in everything()}
    assert {row.reason for row in TABLE} <= decided
    assert len(decided) == len(TABLE) + 2


def test_an_index_that_answers_the_probes_and_not_the_new_queries():
    assert cause(drift=SignalState.WARN, shadow=SignalState.WARN) is DiagnosisCause.USERS_CHANGED
    assert cause(drift=SignalState.WARN, shadow=SignalState.WARN, probe=None) is DiagnosisCause.USERS_CHANGED
    assert (
        cause(drift=SignalState.WARN, shadow=SignalState.WARN, probe=SignalState.WARN) is DiagnosisCause.INDEX_DEGRADED
    )
    assert cause(BaselineChange.INDEX, drift=SignalState.WARN, shadow=SignalState.WARN) is DiagnosisCause.INDEX_DEGRADED


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (BaselineChange.NOTHING, DiagnosisCause.LABELS_STALE),
        (BaselineChange.DOCUMENTS, DiagnosisCause.LABELS_STALE),
        (BaselineChange.INDEX, DiagnosisCause.INDEX_DEGRADED),
        (BaselineChange.MODEL, DiagnosisCause.MODEL_WORSE),
    ],
)
def test_probes_that_fall_are_blamed_on_what_changed(changed, expected):
    assert cause(changed, probe=SignalState.WARN) is expected


def test_the_page_shows_the_table():
    """docs/monitoring.md, row by row: state names, `calm` for ok or not watched, empty for any."""
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "| `" in line]
    shown = [(*row[:6], row[6].strip("`")) for row in rows if len(row) == 8]
    names = {frozenset(): "", frozenset({SignalState.OK, None}): "calm"}
    table = [(*(names[cell] if cell in names else "".join(cell) for cell in row[:6]), row.cause.value) for row in TABLE]
    assert shown == [*table, ("", "", "", "", "", "", "unknown")]
