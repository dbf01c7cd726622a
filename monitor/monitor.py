"""All that is watched of one running server, its diagnosis, and its memory."""

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
from embedship.monitor.recall.rolling import baseline_of
from embedship.monitor.snapshot import BaselineOrigin, MonitorState
from embedship.monitor.state import SignalState

logger = logging.getLogger(__name__)

CAUSE = "cause"

# At the end of a server: a full queue takes less than a second, an exact search over millions a few.
FLUSH_SECONDS = 5.0

# Missing labels are what the probes lost if they are at least this share of the fall: a question has several.
EXPLAINED = 0.5


class SnapshotReport(msgspec.Struct, frozen=True):
    """`restored`: this server went on where another one ended. Without a folder to write to, all is 0."""

    written: int = 0
    bytes: int = 0
    written_at: float = 0.0  # Unix time
    restored: bool = False


class MonitorStatus(msgspec.Struct, frozen=True):
    """Everything the monitor knows, at one moment. `began` holds, by signal, since when its state is what it is."""

    diagnosis: Diagnosis
    began: dict[str, float]
    canary: CanaryReport
    queries: ObserverReport
    probe: ProbeReport | None
    feedback: FeedbackReport | None
    snapshot: SnapshotReport
    failures: FailureCounts
    candidate: CandidateReport | None = None  # None: none is compared


class QualityMonitor:
    """Canary, probes and feedback are fed on one thread, the event loop's; `report` and `state_to_save` belong there,
    too.

    `index` and `probe_digest` say what recall is bound to. A baseline outlives what it was measured on: that of shadow
    recall another index of the same model, that of the probes another model, so that a worse one is seen to be worse.
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
        self._origin: BaselineOrigin | None = None  # of the baseline of the probes; None: what is here now
        self._folder = folder
        self._clock = clock
        self._onsets = {name: StateTimer(SignalState.UNKNOWN) for name in MonitorSignals.__struct_fields__}
        self._onsets[CAUSE] = StateTimer(DiagnosisCause.UNKNOWN)
        self._snapshot = SnapshotReport()
        self._writing = Lock()  # the last snapshot of a server must not be overtaken by the one before

    @property
    def faults(self) -> FailureCounter:
        return self.observer.faults

    def report(self) -> MonitorStatus:
        queries, canary = self.observer.report(), self.canary.report()
        probe = self.probes.report() if self.probes else None
        feedback = self.feedback.report() if self.feedback else None
        judged = feedback is not None and feedback.recall.state is not SignalState.UNKNOWN
        signals = MonitorSignals(
            canary=canary.state,
            drift=queries.drift.state if self.observer.watches_drift else None,
            shadow=queries.shadow.recall.state if self.observer.watches_recall else None,
            probe=probe.recall.state if probe else None,
            # Nobody has to send feedback, and one judgement must not make the diagnosis wait for hundreds more.
            feedback=feedback.recall.state if feedback and judged else None,
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
        """What is no longer what a baseline was measured on, if recall may have fallen for it."""
        if self.probes and (self._origin is None or self.probes.confirmed):
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
        """What still waits is looked at, the snapshot is written, the thread is joined."""
        self.observer.flush(FLUSH_SECONDS)
        self.save(self.state_to_save())
        self.observer.close()

    def stop_saving(self) -> None:
        """Another one has taken up what was remembered: write nothing over it."""
        self._folder = None

    def restore(self, before: "QualityMonitor | None" = None) -> None:
        """Go on where the last server of this model ended; before the observer starts. Never raises.

        `before` is the one that this one replaces in a running server: without a folder, its memory is taken up.
        """
        try:
            found, others = self._found(before)
            if found:
                self._restore_from(*found)
        except (MonitorError, ValueError) as error:
            logger.warning("the monitor begins anew: %s", error)
            others = snapshot.others(self._folder, self._fingerprint) if self._folder else []
        for other in others:
            self._inherit(other)

    def _found(
        self, before: "QualityMonitor | None"
    ) -> tuple[tuple[MonitorState, QueryWindow | None] | None, list[MonitorState]]:
        """What is remembered of this model, and of others, newest first. Raises SnapshotUnreadable."""
        if self._folder:
            found = snapshot.read(self._folder, self._fingerprint)
            return found, snapshot.others(self._folder, self._fingerprint)
        if before is None:
            return None, []
        shadow, window = before.observer.memory()
        remembered = msgspec.structs.replace(before.state_to_save(), shadow=shadow)
        if remembered.fingerprint == self._fingerprint:
            return (remembered, window), []
        return None, [remembered]

    def _inherit(self, other: MonitorState) -> None:
        """The same probes, with another model: what it found is what this one has to find."""
        probe = other.probe
        if not self.probes or self.probes.recall.baseline or not probe or not probe.baseline:
            return
        if other.probes == self._probe_digest:
            self.probes.inherit(probe.baseline, other.ndcg_baseline)
            self._origin = other.origin or BaselineOrigin(other.fingerprint, other.index)

    def state_to_save(self) -> MonitorState:
        """What must not be forgotten, but for what the observer knows."""
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

    def save(self, remembered: MonitorState) -> None:
        """Write the snapshot; from any thread that may wait for a disk. A full disk is counted, and tried again."""
        if self._folder is None:
            return
        with self._writing, self.faults.guard(MonitorPart.SNAPSHOT):
            shadow, window = self.observer.memory()
            size = snapshot.write(self._folder, msgspec.structs.replace(remembered, shadow=shadow), window)
            written = self._snapshot.written + 1
            self._snapshot = msgspec.structs.replace(
                self._snapshot, written=written, bytes=size, written_at=self._clock()
            )

    def _restore_from(self, found: MonitorState, window: QueryWindow | None) -> None:
        same = found.index == self._index
        if found.shadow and not same and (baseline := baseline_of(found.shadow)):
            self.observer.inherit(baseline)
        self.observer.remember(found.shadow if same else None, window)
        if self.probes and found.probe and found.probes == self._probe_digest:
            self.probes.remember(found.probe, found.ndcg_baseline)
            self._origin = found.origin or BaselineOrigin(found.fingerprint, found.index)
        if self.feedback:
            if found.feedback and found.index == self._index:
                self.feedback.recall.remember(found.feedback)
            self.feedback.pairs.extend(found.pairs)
        for name, began in found.began.items():
            if name in self._onsets:
                self._onsets[name].began = began
        self._snapshot = msgspec.structs.replace(self._snapshot, restored=True)
        logger.info("the monitor goes on where it was %.0f s ago", self._clock() - found.created)
