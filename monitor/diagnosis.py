"""Derives one cause from the states of all signals: the first row of a table that matches decides. Pure functions.

It names one cause, not a list, because the person on call needs to know where to begin. The report contains the rest.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from embedship.monitor.state import SignalState


class DiagnosisCause(StrEnum):
    """The cause that the diagnosis names."""

    NONE = "none"
    MODEL_CHANGED = "model_changed"
    MODEL_WORSE = "model_worse"
    USERS_CHANGED = "users_changed"
    INDEX_DEGRADED = "index_degraded"
    LABELS_STALE = "labels_stale"
    UNKNOWN = "unknown"


class BaselineChange(StrEnum):
    """What changed since the recall baselines were measured. The first one that applies explains the most."""

    NOTHING = "nothing"
    DOCUMENTS = "documents"  # labelled documents left the index, enough to explain the lower probe recall
    MODEL = "model"  # and therefore also the index
    INDEX = "index"


class MonitorSignals(msgspec.Struct, frozen=True, kw_only=True):
    """The state of each signal; None if it is not monitored (no index, no probes, no feedback)."""

    canary: SignalState | None = None
    drift: SignalState | None = None
    shadow: SignalState | None = None
    probe: SignalState | None = None
    feedback: SignalState | None = None


class Diagnosis(msgspec.Struct, frozen=True):
    """The cause. `since`: Unix time at which this cause began, without interruption; 0 before the first report."""

    cause: DiagnosisCause
    reason: str
    signals: MonitorSignals
    since: float = 0.0
    changed: BaselineChange = BaselineChange.NOTHING


class DiagnosisRule(NamedTuple):
    """One table row. Each cell contains the matching states; an empty cell matches all. `None`: not monitored."""

    canary: frozenset[SignalState | None]
    drift: frozenset[SignalState | None]
    shadow: frozenset[SignalState | None]
    probe: frozenset[SignalState | None]
    feedback: frozenset[SignalState | None]
    changed: frozenset[BaselineChange]
    cause: DiagnosisCause
    reason: str


_any: frozenset[SignalState | None] = frozenset()
_ok = frozenset[SignalState | None]({SignalState.OK})
_warn = frozenset[SignalState | None]({SignalState.WARN})
_calm = frozenset[SignalState | None]({SignalState.OK, None})  # ok, or not monitored

_whatever: frozenset[BaselineChange] = frozenset()
_nothing, _documents = frozenset({BaselineChange.NOTHING}), frozenset({BaselineChange.DOCUMENTS})
_model, _index = frozenset({BaselineChange.MODEL}), frozenset({BaselineChange.INDEX})

TABLE = (
    #   canary  drift  shadow  probe  feedback  changed
    DiagnosisRule(_warn, _any, _any, _any, _any, _whatever, DiagnosisCause.MODEL_CHANGED,
        "a device no longer gives the right vectors for the golden texts: a model file, a device or a runtime changed. "
        "Other warnings may follow from this"),
    DiagnosisRule(_any, _warn, _warn, _calm, _any, _nothing, DiagnosisCause.USERS_CHANGED,
        "users ask new kinds of questions, and the unchanged index finds less for them: it was not built for these"),
    DiagnosisRule(_any, _any, _warn, _any, _any, _whatever, DiagnosisCause.INDEX_DEGRADED,
        "the index no longer finds what an exact search over the same vectors finds"),
    DiagnosisRule(_ok, _any, _any, _warn, _any, _model, DiagnosisCause.MODEL_WORSE,
        "the model was replaced, and the labelled queries find fewer of their documents than with the previous model"),
    DiagnosisRule(_ok, _any, _any, _warn, _any, _index, DiagnosisCause.INDEX_DEGRADED,
        "the index was replaced, and the labelled queries find fewer of their documents than with the previous index"),
    DiagnosisRule(_ok, _any, _calm, _warn, _any, _documents, DiagnosisCause.LABELS_STALE,
        "the labelled queries find fewer of their documents, because labelled documents are no longer in the index"),
    DiagnosisRule(_ok, _any, _calm, _warn, _any, _nothing, DiagnosisCause.LABELS_STALE,
        "model and index are unchanged, but the labelled queries find fewer of their documents: the corpus changed, or "
        "the labels are out of date"),
    DiagnosisRule(_ok, _warn, _calm, _calm, _any, _whatever, DiagnosisCause.USERS_CHANGED,
        "users ask new kinds of questions. The model gives the right vectors and the index finds its documents, so "
        "answers may still be good"),
    DiagnosisRule(_ok, _calm, _calm, _calm, _calm, _whatever, DiagnosisCause.NONE,
        "every monitored signal is ok"),
)  # fmt: skip
UNEXPLAINED = "a signal warns, but the other signals do not show why"
TOO_EARLY = "no signal warns, but not every signal has enough data yet"


def diagnose(signals: MonitorSignals, changed: BaselineChange = BaselineChange.NOTHING) -> Diagnosis:
    """Return the cause of the first table row that matches; `unknown` if none does.

    >>> diagnose(MonitorSignals(canary=SignalState.OK, drift=SignalState.WARN, shadow=SignalState.OK)).cause
    <DiagnosisCause.USERS_CHANGED: 'users_changed'>
    """
    states = msgspec.structs.astuple(signals)
    for row in TABLE:
        fits = all(not cell or state in cell for cell, state in zip(row[: len(states)], states, strict=True))
        if fits and (not row.changed or changed in row.changed):
            return Diagnosis(row.cause, row.reason, signals, changed=changed)
    return Diagnosis(
        DiagnosisCause.UNKNOWN, UNEXPLAINED if SignalState.WARN in states else TOO_EARLY, signals, changed=changed
    )
