"""LiveDrift: the window of recent queries, the drift test on it, and the evidence."""

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

CALM_TESTS = 3  # tests in a row without drift that end a warning, because a score near the limit crosses it by chance
NAMED = 10  # drifted queries listed in the evidence, without their texts unless texts are kept


class LiveDrift:
    """Tests live queries for drift. Not thread-safe: only the observer's thread uses it."""

    def __init__(self, detector: DriftDetector, reference: DriftReference | None, window: int, named: int) -> None:
        self._detector = detector
        self._reference = reference
        self._known: ReferenceClusters | None = None  # fitted later on the observer's thread: startup must not wait
        self._recent = QueryRing(window)
        self._named = max(NAMED, named)
        self._latch = WarningLatch(CALM_TESTS)
        self._since = 0.0

    def add(self, sampled: Sequence[QuerySample]) -> None:
        """Add the queries that were sampled for drift: all of them or, on an error, none. Raises InvalidVectors."""
        window = _window(sampled)
        if len(window):
            self.extend(window)

    def extend(self, window: QueryWindow) -> None:
        """Add a window of queries. Raises InvalidVectors."""
        # A query that came alone may belong to a session of several queries. The request does not say.
        sessions = np.where(window.calls < 0, UNKNOWN_SESSION, window.calls)
        self._detector.update(window.vectors, sessions, window.times)
        if self._reference:
            self._recent.extend(window)

    def prepare(self) -> None:
        """Fit what the test needs from the reference (seconds of work)."""
        self._detector.prepare()

    def untested(self) -> DriftReport:
        """Return the report before the first test."""
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
        """Return the evidence. It lists queries only during drift, because finding the furthest ones takes as long as a
        test.
        """
        window = self._recent.window()
        if self._reference is None or window is None:
            return DriftEvidence()
        self._known = self._known or ReferenceClusters.fit(self._reference.vectors)
        return self._known.compare(window, self._named if state is SignalState.WARN else 0)

    def window(self) -> QueryWindow | None:
        """Return the window to save for a restart; None before the first query."""
        return self._recent.window()


def _window(sampled: Sequence[QuerySample]) -> QueryWindow:
    """Return the queries of one or more calls that were sampled for drift."""
    picked = np.concatenate([each.drift for each in sampled])
    counts = [len(each.drift) for each in sampled]
    texts = chain.from_iterable(each.texts or (None,) * len(each.drift) for each in sampled)
    return QueryWindow(
        np.concatenate([each.vectors for each in sampled])[picked],
        np.repeat([each.at for each in sampled], counts)[picked],
        np.repeat([each.call for each in sampled], counts)[picked],
        tuple(compress(texts, picked)),
    )
