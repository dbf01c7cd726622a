"""The signals together name one cause. Pure: a table that a reader can check, the first row that fits decides.

Why one cause and not a list: whoever is woken up needs to know where to begin. What else was seen is in the report.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from embedship.monitor.state import SignalState


class DiagnosisCause(StrEnum):
    NONE = "none"
    MODEL_CHANGED = "model_changed"
    MODEL_WORSE = "model_worse"
    USERS_CHANGED = "users_changed"
    INDEX_DEGRADED = "index_degraded"
    LABELS_STALE = "labels_stale"
    UNKNOWN = "unknown"


class BaselineChange(StrEnum):
    """What differs from when the baselines of recall were measured; what explains most comes first."""

    NOTHING = "nothing"
    DOCUMENTS = "documents"  # labelled documents left the index, enough of them to explain what the probes lost
    MODEL = "model"  # and with it every index
    INDEX = "index"


class MonitorSignals(msgspec.Struct, frozen=True, kw_only=True):
    """What each part of the monitor says; None where it was not asked to watch (no index, no probes, no feedback)."""

    canary: SignalState | None = None
    drift: SignalState | None = None
    shadow: SignalState | None = None
    probe: SignalState | None = None
    feedback: SignalState | None = None


class Diagnosis(msgspec.Struct, frozen=True):
    """`since` is the Unix time of the first report of the current run with this cause, 0 before the first."""

    cause: DiagnosisCause
    reason: str
    signals: MonitorSignals
    since: float = 0.0
    changed: BaselineChange = BaselineChange.NOTHING


class DiagnosisRule(NamedTuple):
    """A cell is the states that fit; an empty one fits any. `None` in a cell: not watched."""

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
_calm = frozenset[SignalState | None]({SignalState.OK, None})  # ok, or not watched

_whatever: frozenset[BaselineChange] = frozenset()
_nothing, _documents = frozenset({BaselineChange.NOTHING}), frozenset({BaselineChange.DOCUMENTS})
_model, _index = frozenset({BaselineChange.MODEL}), frozenset({BaselineChange.INDEX})

TABLE = (
    #   canary  drift  shadow  probe  feedback  changed
    DiagnosisRule(_warn, _any, _any, _any, _any, _whatever, DiagnosisCause.MODEL_CHANGED,
        "the golden texts no longer get their vectors: a file, a device or a runtime changed; all else follows"),
    DiagnosisRule(_any, _warn, _warn, _calm, _any, _nothing, DiagnosisCause.USERS_CHANGED,
        "the index is the same as before, and finds less on the new queries: it was not built for these"),
    DiagnosisRule(_any, _any, _warn, _any, _any, _whatever, DiagnosisCause.INDEX_DEGRADED,
        "the index no longer finds what an exact search over the same vectors finds"),
    DiagnosisRule(_ok, _any, _any, _warn, _any, _model, DiagnosisCause.MODEL_WORSE,
        "the model was replaced, and fixed questions find fewer of their labelled answers than with the model before"),
    DiagnosisRule(_ok, _any, _any, _warn, _any, _index, DiagnosisCause.INDEX_DEGRADED,
        "the index was replaced, and fixed questions find fewer of their labelled answers than with the index before"),
    DiagnosisRule(_ok, _any, _calm, _warn, _any, _documents, DiagnosisCause.LABELS_STALE,
        "fixed questions no longer get their labelled answers, because labelled documents are no longer in the index"),
    DiagnosisRule(_ok, _any, _calm, _warn, _any, _nothing, DiagnosisCause.LABELS_STALE,
        "model and index are as they were, but fixed questions no longer get their labelled answers: the corpus "
        "changed, or the labels are out of date"),
    DiagnosisRule(_ok, _warn, _calm, _calm, _any, _whatever, DiagnosisCause.USERS_CHANGED,
        "the model gives its vectors and the index finds what is there, but the queries are others than before"),
    DiagnosisRule(_ok, _calm, _calm, _calm, _calm, _whatever, DiagnosisCause.NONE,
        "every signal that is watched is ok"),
)  # fmt: skip
UNEXPLAINED = "something warns that the other signals, unknown or ok, do not explain"
TOO_EARLY = "nothing warns, but not every signal has enough evidence yet"


def diagnose(signals: MonitorSignals, changed: BaselineChange = BaselineChange.NOTHING) -> Diagnosis:
    """Return the first row of the table that fits; `unknown` if none does.

    >>> diagnose(Signals(canary=State.OK, drift=State.WARN, shadow=State.OK)).cause
    <Cause.USERS_CHANGED: 'users_changed'>
    """
    seen = msgspec.structs.astuple(signals)
    for row in TABLE:
        fits = all(not cell or state in cell for cell, state in zip(row[: len(seen)], seen, strict=True))
        if fits and (not row.changed or changed in row.changed):
            return Diagnosis(row.cause, row.reason, signals, changed=changed)
    return Diagnosis(
        DiagnosisCause.UNKNOWN, UNEXPLAINED if SignalState.WARN in seen else TOO_EARLY, signals, changed=changed
    )
