"""QualityMonitor: combines all signals about a running server into a status and a diagnosis, and saves its state."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import msgspec

from embedship.monitor import snapshot
from embedship.monitor.canary import CanaryMonitor, CanaryReport
from embedship.monitor.diagnosis import BaselineChange, Diagnosis, DiagnosisCause, MonitorSignals, diagnose
from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.errors import MonitorError
from embedship.monitor.failures import FailureCounter, FailureCounts, MonitorPart
from embedship.monitor.observer import ObserverReport, QueryObserver
from embedship.monitor.onset import StateTimer
from embedship.monitor.recall.candidate import CandidateComparison, CandidateReport
from embedship.monitor.recall.feedback import FeedbackRecall, FeedbackReport
from embedship.monitor.recall.probes import ProbeRecall, ProbeReport
from embedship.monitor.recall.rolling import saved_baseline
from embedship.monitor.snapshot import BaselineOrigin, MonitorState
from embedship.monitor.state import SignalState

logger = logging.getLogger(__name__)

CAUSE = "cause"

# Limit for the flush when the server stops: a full queue needs less than a second, an exact search over millions of
# vectors a few seconds.
FLUSH_SECONDS = 5.0

# Missing documents explain a fall of probe recall if the share of labels that they remove is at least this part of the
# fall. (A query has several labels.)
EXPLAINED = 0.5


class SnapshotReport(msgspec.Struct, frozen=True):
    """The saved state. `restored`: this server continued from the state of an earlier one. All 0 without a folder."""

    written: int = 0
    bytes: int = 0
    written_at: float = 0.0  # Unix time
    restored: bool = False


class MonitorStatus(msgspec.Struct, frozen=True):
    """Everything the monitor knows at one time. `began`: the Unix time at which each signal's current state began."""

    diagnosis: Diagnosis
    began: dict[str, float]
    canary: CanaryReport
    queries: ObserverReport
    probe: ProbeReport | None
    feedback: FeedbackReport | None
    snapshot: SnapshotReport
    failures: FailureCounts
    candidate: CandidateReport | None = None  # None: no candidate is compared


class QualityMonitor:
    """Combines canary, probes, feedback and the query observer of one server into a status and a diagnosis.

    Canary, probes and feedback are updated on one thread, that of the event loop. `report` and `state_to_save` must
    also be called on that thread.

    `index` and `probe_digest` identify what recall was measured on. A baseline is kept when that changes, so that a
    worse replacement is detected: the shadow baseline is kept for another index of the same model, and the probe
    baseline for another model.
    """

    def __init__(
        self,
        fingerprint: str,
        observer: QueryObserver,
        canary: CanaryMonitor,
        *,
        probes: ProbeRecall | None = None,
        feedback: FeedbackRecall | None = None,
        comparison: CandidateComparison | None = None,
        index: str = "",
        probe_digest: str = "",
        folder: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fingerprint = fingerprint
        self.observer, self.canary, self.probes, self.feedback = observer, canary, probes, feedback
        self._comparison = comparison
        self._index, self._probe_digest = index, probe_digest
        self._origin: BaselineOrigin | None = None  # of the probe baseline; None: this model and index
        self._folder = folder
        self._clock = clock
        self._onsets = {name: StateTimer(SignalState.UNKNOWN) for name in MonitorSignals.__struct_fields__}
        self._onsets[CAUSE] = StateTimer(DiagnosisCause.UNKNOWN)
        self._snapshot = SnapshotReport()
        self._writing = Lock()  # snapshots must be written in order: the last one at shutdown must win

    @property
    def faults(self) -> FailureCounter:
        """The counter of exceptions inside the monitor."""
        return self.observer.faults

    def report(self) -> MonitorStatus:
        """Return the current status with the diagnosis. Call it on the event loop."""
        queries, canary = self.observer.report(), self.canary.report()
        probe = self.probes.report() if self.probes else None
        feedback = self.feedback.report() if self.feedback else None
        has_evidence = feedback is not None and feedback.recall.state is not SignalState.UNKNOWN
        signals = MonitorSignals(
            canary=canary.state,
            drift=queries.drift.state if self.observer.watches_drift else None,
            shadow=queries.shadow.recall.state if self.observer.watches_recall else None,
            probe=probe.recall.state if probe else None,
            # Feedback is optional. A single judgement must not keep the diagnosis `unknown` until hundreds have come.
            feedback=feedback.recall.state if feedback and has_evidence else None,
        )
        now = self._clock()
        diagnosis = diagnose(signals, self._changed(queries, probe))
        return MonitorStatus(
            diagnosis=msgspec.structs.replace(diagnosis, since=self._onsets[CAUSE].since(diagnosis.cause, now)),
            began=self._began(signals, now),
            canary=canary,
            queries=queries,
            probe=probe,
            feedback=feedback,
            snapshot=self._snapshot,
            failures=self.faults.failures,
            candidate=self._comparison.report() if self._comparison else None,
        )

    def _changed(self, queries: ObserverReport, probe: ProbeReport | None) -> BaselineChange:
        """Return what changed since a baseline was measured and can explain lower recall."""
        if self.probes and (self._origin is None or self.probes.reaches_baseline):
            self._origin = BaselineOrigin(self._fingerprint, self._index, self.probes.missing)
        if self.probes and probe and self._origin:
            lost = (probe.missing - self._origin.missing) / len(self.probes.labels)
            fallen = probe.recall.baseline - probe.recall.rolling
            if lost > 0 and lost >= EXPLAINED * fallen:
                return BaselineChange.DOCUMENTS
            if self._origin.model != self._fingerprint:
                return BaselineChange.MODEL
            if self._origin.index != self._index:
                return BaselineChange.INDEX
        return BaselineChange.INDEX if queries.shadow.recall.inherited else BaselineChange.NOTHING

    def _began(self, signals: MonitorSignals, now: float) -> dict[str, float]:
        states = msgspec.structs.asdict(signals).items()
        return {name: self._onsets[name].since(state, now) for name, state in states if state is not None}

    def __enter__(self) -> Self:
        self.observer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Process the queued queries, write the snapshot and join the thread."""
        self.observer.flush(FLUSH_SECONDS)
        self.save(self.state_to_save())
        self.observer.close()

    def stop_saving(self) -> None:
        """Stop writing snapshots, because another monitor continues from this state and writes its own."""
        self._folder = None

    def restore(self, previous: "QualityMonitor | None" = None) -> None:
        """Continue from the saved state of this model. Call it before the observer starts. Never raises.

        `previous` is the monitor that this one replaces in a running server. Its state is used if there is no folder.
        """
        try:
            own, others = self._saved_states(previous)
            if own:
                self._restore_from(*own)
        except (MonitorError, ValueError) as error:
            logger.warning("the saved monitor state cannot be used, monitoring starts without it: %s", error)
            others = snapshot.read_others(self._folder, self._fingerprint) if self._folder else []
        for other in others:
            self._inherit(other)

    def _saved_states(
        self, previous: "QualityMonitor | None"
    ) -> tuple[tuple[MonitorState, QueryWindow | None] | None, list[MonitorState]]:
        """Return the saved state of this model and those of other models, newest first. Raises SnapshotUnreadable."""
        if self._folder:
            own = snapshot.read(self._folder, self._fingerprint)
            return own, snapshot.read_others(self._folder, self._fingerprint)
        if previous is None:
            return None, []
        shadow, window = previous.observer.memory()
        state = msgspec.structs.replace(previous.state_to_save(), shadow=shadow)
        if state.fingerprint == self._fingerprint:
            return (state, window), []
        return None, [state]

    def _inherit(self, other: MonitorState) -> None:
        """Use the probe baseline of another model, if it was measured on the same probes."""
        probe = other.probe
        if not self.probes or self.probes.recall.baseline or not probe or not probe.baseline:
            return
        if other.probes == self._probe_digest:
            self.probes.inherit(probe.baseline, other.ndcg_baseline)
            self._origin = other.origin or BaselineOrigin(other.fingerprint, other.index)

    def state_to_save(self) -> MonitorState:
        """Return the state to save, without the observer's part."""
        return MonitorState(
            fingerprint=self._fingerprint,
            created=self._clock(),
            index=self._index,
            probes=self._probe_digest,
            probe=self.probes.recall.memory() if self.probes and self.probes.recall.queries else None,
            ndcg_baseline=self.probes.ndcg_baseline if self.probes else 0.0,
            origin=self._origin,
            feedback=self.feedback.recall.memory() if self.feedback else None,
            pairs=tuple(self.feedback.pairs) if self.feedback else (),
            began={name: onset.began for name, onset in self._onsets.items() if onset.began},
        )

    def save(self, state: MonitorState) -> None:
        """Write the snapshot. Call it from a thread that may wait for a disk. A failed write is counted and retried."""
        if self._folder is None:
            return
        with self._writing, self.faults.guard(MonitorPart.SNAPSHOT):
            shadow, window = self.observer.memory()
            size = snapshot.write(self._folder, msgspec.structs.replace(state, shadow=shadow), window)
            written = self._snapshot.written + 1
            self._snapshot = msgspec.structs.replace(
                self._snapshot, written=written, bytes=size, written_at=self._clock()
            )

    def _restore_from(self, state: MonitorState, window: QueryWindow | None) -> None:
        same_index = state.index == self._index
        if state.shadow and not same_index and (baseline := saved_baseline(state.shadow)):
            self.observer.inherit(baseline)
        self.observer.restore(state.shadow if same_index else None, window)
        if self.probes and state.probe and state.probes == self._probe_digest:
            self.probes.restore(state.probe, state.ndcg_baseline)
            self._origin = state.origin or BaselineOrigin(state.fingerprint, state.index)
        if self.feedback:
            if state.feedback and same_index:
                self.feedback.recall.restore(state.feedback)
            self.feedback.pairs.extend(state.pairs)
        for name, began in state.began.items():
            if name in self._onsets:
                self._onsets[name].began = began
        self._snapshot = msgspec.structs.replace(self._snapshot, restored=True)
        logger.info("monitoring continues from a state saved %.0f s ago", self._clock() - state.created)
