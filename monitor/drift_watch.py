"""The live end of drift: the window of queries, the test on it, and what moved."""

import numpy as np
from numpy.typing import NDArray

from embedship.monitor.drift import DriftDetector, DriftReport
from embedship.monitor.evidence import Evidence, Known
from embedship.monitor.intake import Sampled
from embedship.monitor.recent import Recent, Window
from embedship.monitor.reference import Reference
from embedship.monitor.state import State

NAMED = 10  # drifted queries named in the evidence, without their texts unless these are kept


class DriftWatch:
    """Not safe for several threads at once: the observer's thread owns it."""

    def __init__(self, detector: DriftDetector, reference: Reference | None, window: int, named: int) -> None:
        self._detector = detector
        self._reference = reference
        self._known: Known | None = None  # fitted on the observer's thread: a server need not wait for it
        self._recent = Recent(window)
        self._named = max(NAMED, named)

    def add(self, sampled: Sampled) -> None:
        """Take the queries that were picked for drift. Raises InvalidVectors."""
        rows = np.flatnonzero(sampled.drift)
        if len(rows):
            self.extend(_window(sampled, rows))

    def extend(self, window: Window) -> None:
        self._detector.update(window.vectors, window.calls, window.times)
        if self._reference:
            self._recent.extend(window)

    def prepare(self) -> None:
        self._detector.prepare()

    def untested(self) -> DriftReport:
        return self._detector.untested()

    def evaluate(self, now: float) -> DriftReport:
        return self._detector.evaluate(now)

    def evidence(self, state: State) -> Evidence:
        """Queries are named only while they drift: to find the furthest costs as much as the test."""
        window = self._recent.window()
        if self._reference is None or window is None:
            return Evidence()
        self._known = self._known or Known.fit(self._reference.vectors)
        return self._known.compare(window, self._named if state is State.WARN else 0)

    def window(self) -> Window | None:
        """What a restarted server is given back; None before the first query."""
        return self._recent.window()


def _window(sampled: Sampled, rows: NDArray[np.intp]) -> Window:
    n = len(rows)
    texts = (None,) * n if sampled.texts is None else tuple(sampled.texts[row] for row in rows)
    return Window(sampled.vectors[rows], np.full(n, sampled.at), np.full(n, sampled.call, dtype=np.int64), texts)
