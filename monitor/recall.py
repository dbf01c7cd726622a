"""Does the index still find what an exact search finds?"""

from collections import deque
from statistics import fmean  # exactly rounded: 0.9 ten times has mean 0.9, and is not below 0.9

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.errors import InvalidSetting
from embedship.monitor.state import State
from embedship.monitor.statistics import Interval, recall_interval

FALL = 0.9  # warn below this share of the baseline
NO_HIT = -1

Ids = NDArray[np.int64]


class RecallReport(msgspec.Struct, frozen=True):
    """Recall so far. With queries 0 the ratios are 0 and mean nothing; baseline 0 means not known yet."""

    state: State
    reason: str
    k: int
    queries: int
    found: int
    expected: int
    rolling: float
    lower: float
    upper: float
    baseline: float


def overlap(approximate: Ids, exact: Ids) -> tuple[Ids, Ids]:
    """Count, per query, the exact hits found and the exact hits: both (n,), from ids (n, k) where -1 is no hit."""
    real = exact != NO_HIT
    present = (exact[:, :, None] == approximate[:, None, :]).any(axis=2)
    return (present & real).sum(axis=1), real.sum(axis=1)


class RollingRecall:
    """Recall@k over the last `windows` windows of `window` queries, and the users' alarm on it.

    The alarm warns when the mean of the last `windows` complete windows is below 0.9 x baseline. The baseline is
    given (from the bundle: preferred), or the mean of the first `windows` complete windows; the latter says `unknown`
    until a window beyond them is complete, for a mean compared with itself proves nothing.
    Known weakness: it cannot see a fall of 5 points. Not safe for several threads at once.
    """

    def __init__(self, k: int = 10, window: int = 100, windows: int = 5, baseline: float | None = None) -> None:
        for name, value in (("k", k), ("window", window), ("windows", windows)):
            if value < 1:
                raise InvalidSetting(name, value, "at least 1")
        if baseline is not None and not 0 < baseline <= 1:
            raise InvalidSetting("baseline", baseline, "a recall above 0, at most 1")
        self.k = k
        self.baseline = baseline
        self.queries = self.found = self.expected = 0
        self._window = window
        self._recalls: deque[float] = deque(maxlen=window * windows)
        self._complete: deque[float] = deque(maxlen=windows)
        self._needed = windows if baseline is not None else windows + 1

    def update(self, found: int, expected: int) -> None:
        """Count one query: found of the expected exact hits. A query that expects none says nothing and is left out."""
        if not 0 <= found <= expected <= self.k:
            raise ValueError(f"found={found}, expected={expected}: need 0 <= found <= expected <= k={self.k}")
        if not expected:
            return
        self.queries += 1
        self.found += found
        self.expected += expected
        self._recalls.append(found / expected)
        if self.queries % self._window == 0:
            self._complete_window()

    def _complete_window(self) -> None:
        self._complete.append(fmean(list(self._recalls)[-self._window :]))
        full = len(self._complete) == self._complete.maxlen
        if full and self.baseline is None:
            self.baseline = fmean(self._complete)

    @property
    def rolling(self) -> float:
        """Mean recall of the last window x windows queries; 0 before the first."""
        return fmean(self._recalls) if self._recalls else 0.0

    @property
    def interval(self) -> Interval:
        """95% interval of `rolling`, the query being the unit; (0, 0) before the first query."""
        if not self._recalls:
            return Interval(0.0, 0.0)
        return recall_interval(np.array(self._recalls), self.k)

    @property
    def state(self) -> State:
        if self.baseline is None or self.queries < self._needed * self._window:
            return State.UNKNOWN
        return State.WARN if fmean(self._complete) < FALL * self.baseline else State.OK

    def report(self) -> RecallReport:
        interval, state = self.interval, self.state
        return RecallReport(
            state=state,
            reason=self._reason(state),
            k=self.k,
            queries=self.queries,
            found=self.found,
            expected=self.expected,
            rolling=self.rolling,
            lower=interval.lower,
            upper=interval.upper,
            baseline=self.baseline or 0.0,
        )

    def _reason(self, state: State) -> str:
        if state is State.UNKNOWN:
            return f"{self.queries} queries compared with exact search, {self._needed * self._window} needed"
        mean = fmean(self._complete)
        return f"recall@{self.k} {mean:.3f} over complete windows, limit {FALL} x {self.baseline:.3f}"
