"""The live end of drift: the window of queries, the test on it, and what moved."""

from collections.abc import Sequence
from itertools import chain, compress

import msgspec
import numpy as np

from embedship.monitor.drift.detector import UNKNOWN_SESSION, DriftDetector, DriftReport
from embedship.monitor.drift.evidence import DriftEvidence, ReferenceClusters
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.drift.window import QueryRing, QueryWindow
from embedship.monitor.latch import WarningLatch
from embedship.monitor.sample_queue import QuerySample
from embedship.monitor.state import SignalState

CALM_TESTS = 3  # in a row without drift, before a warning ends: at the limit, chance alone moves a score across it
NAMED = 10  # drifted queries named in the evidence, without their texts unless these are kept


class LiveDrift:
    """Not safe for several threads at once: the observer's thread owns it."""

    def __init__(self, detector: DriftDetector, reference: DriftReference | None, window: int, named: int) -> None:
        self._detector = detector
        self._reference = reference
        self._known: ReferenceClusters | None = None  # fitted on the observer's thread: a server need not wait for it
        self._recent = QueryRing(window)
        self._named = max(NAMED, named)
        self._latch = WarningLatch(CALM_TESTS)
        self._since = 0.0

    def add(self, sampled: Sequence[QuerySample]) -> None:
        """Take the queries that were picked for drift; all of them, or none. Raises InvalidVectors."""
        window = _window(sampled)
        if len(window):
            self.extend(window)

    def extend(self, window: QueryWindow) -> None:
        # Whether a query that came alone is one of a session, nobody says.
        sessions = np.where(window.calls < 0, UNKNOWN_SESSION, window.calls)
        self._detector.update(window.vectors, sessions, window.times)
        if self._reference:
            self._recent.extend(window)

    def prepare(self) -> None:
        self._detector.prepare()

    def untested(self) -> DriftReport:
        return self._detector.untested()

    def evaluate(self, now: float) -> DriftReport:
        """Test the window at Unix time now. A warning ends only after several tests in a row without drift."""
        report = self._detector.evaluate(now)
        if report.state is SignalState.UNKNOWN:
            self._latch.reset()
            return report
        self._since = self._since if self._latch.held else report.since
        if not self._latch.update(report.state is SignalState.WARN, report.state is SignalState.OK):
            return report
        if report.state is SignalState.WARN:
            return msgspec.structs.replace(report, since=self._since)
        reason = f"{report.reason}; the warning ends after {CALM_TESTS} tests in a row below the limit"
        return msgspec.structs.replace(report, state=SignalState.WARN, reason=reason, since=self._since)

    def evidence(self, state: SignalState) -> DriftEvidence:
        """Queries are named only while they drift: to find the furthest costs as much as the test."""
        window = self._recent.window()
        if self._reference is None or window is None:
            return DriftEvidence()
        self._known = self._known or ReferenceClusters.fit(self._reference.vectors)
        return self._known.compare(window, self._named if state is SignalState.WARN else 0)

    def window(self) -> QueryWindow | None:
        """What a restarted server is given back; None before the first query."""
        return self._recent.window()


def _window(sampled: Sequence[QuerySample]) -> QueryWindow:
    """What was picked for drift of one call or more."""
    picked = np.concatenate([each.drift for each in sampled])
    counts = [len(each.drift) for each in sampled]
    texts = chain.from_iterable(each.texts or (None,) * len(each.drift) for each in sampled)
    return QueryWindow(
        np.concatenate([each.vectors for each in sampled])[picked],
        np.repeat([each.at for each in sampled], counts)[picked],
        np.repeat([each.call for each in sampled], counts)[picked],
        tuple(compress(texts, picked)),
    )
