"""RollingRecall: recall over recent queries compared with a baseline, with two alarm rules."""

from collections import deque
from enum import StrEnum
from statistics import fmean  # exactly rounded: the mean of ten values of 0.9 is 0.9, not slightly less
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.errors import InvalidSetting
from embedship.monitor.latch import WarningLatch
from embedship.monitor.recall.cusum import RUN_LENGTH, Cusum
from embedship.monitor.state import SignalState
from embedship.monitor.statistics import ConfidenceInterval, recall_interval

FALL = 0.9  # warn below this share of the baseline
LEAST_BASELINE = 0.01  # lowest baseline: the recall of an index that is still being filled may be 0 and cannot fall
NO_HIT = -1

Ids = NDArray[np.int64]


class RecallRule(StrEnum):
    """The rule that decides the state; both are always computed.

    ninety_percent  warns if the mean of the last 5 complete windows of 100 queries is below 0.9 x baseline (the
                    users' rule). It cannot detect a fall of 5 points.
    cusum           warns on evidence accumulated by query, with a promised number of queries between false alarms.
    """

    NINETY_PERCENT = "ninety_percent"
    CUSUM = "cusum"


class RecallBaseline(NamedTuple):
    """Recall measured before monitoring starts, in (0, 1].

    `normal`: the recall that the cusum takes as normal, which is `recall` minus its measurement error. Without this
    margin, a baseline that is too high by chance would cause false alarms. `provisional`: measured on other queries
    than the live ones. Such a baseline is replaced by that of the first complete windows of live queries, unless the
    state is `warn` by then.
    """

    recall: float
    normal: float
    provisional: bool = False

    @classmethod
    def exact(cls, recall: float) -> "RecallBaseline":
        """Return a baseline without measurement error."""
        return cls(recall, recall)


class RecallReport(msgspec.Struct, frozen=True):
    """Recall so far. While `queries` is 0, the ratios are 0 and mean nothing. A baseline of 0 means: not known yet."""

    state: SignalState
    rule: RecallRule
    reason: str
    k: int
    queries: int
    found: int
    expected: int
    rolling: float
    lower: float
    upper: float
    baseline: float
    ninety_percent: bool = False
    cusum: bool = False
    evidence: float = 0.0  # that recall is below the baseline
    evidence_limit: float = 0.0  # the cusum warns at this value, which is the mean number of queries per false alarm
    since: float = 0.0  # Unix time of the first query of the current warning; 0 without a warning
    heard: float = 0.0  # Unix time of the last query counted
    inherited: bool = False  # the baseline comes from an earlier index of the same model, which was better

    def expire(self, now: float, seconds: float) -> "RecallReport":
        """Return the report at Unix time `now`: `unknown` if the last query was counted `seconds` ago or earlier."""
        if not self.queries or now - self.heard < seconds:
            return self
        reason = f"no query compared in the last {seconds:,.0f} s"
        return msgspec.structs.replace(self, state=SignalState.UNKNOWN, reason=reason, since=0.0)


class RecallMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a RollingRecall that is saved for a restart."""

    baseline: float | None
    queries: int
    found: int
    expected: int
    since: float
    recalls: tuple[float, ...]
    complete: tuple[float, ...]
    normal: float | None  # the recall that the cusum takes as normal
    evidences: tuple[float, ...]
    learned: bool = False  # the baseline was learned from the queries themselves
    heard: float = 0.0
    inherited: bool = False  # the baseline comes from an earlier index of the same model
    provisional: bool = False  # the baseline was measured on other queries than the live ones


def saved_baseline(memory: RecallMemory) -> RecallBaseline | None:
    """Return the saved baseline; None if there was none yet."""
    if not memory.baseline or not memory.normal:
        return None
    return RecallBaseline(memory.baseline, memory.normal, provisional=memory.provisional)


def _measured_below(own: RecallBaseline, before: RecallBaseline) -> bool:
    """Return whether the recall measured when an index was built is below an earlier baseline by more than chance."""
    if own.provisional:  # measured on other queries than the live ones
        return own.recall < FALL * before.recall
    return own.recall + (own.recall - own.normal) < before.normal


def overlap(approximate: Ids, exact: Ids) -> tuple[Ids, Ids]:
    """Count, per query, the exact hits found and all exact hits: both (n,), from ids (n, k), -1 for no hit."""
    real = exact != NO_HIT
    present = (exact[:, :, None] == approximate[:, None, :]).any(axis=2)
    return (present & real).sum(axis=1), real.sum(axis=1)


class RollingRecall:
    """Recall@k over the last `windows` windows of `window` queries of one source, with two alarm rules.

    The baseline is given (from the index or a setting, preferred) or learned from the first `windows` complete windows.
    With a learned baseline the state is `unknown` until one more window is complete, because a mean compared with
    itself proves nothing. The cusum then uses the lower end of the baseline's 95% interval, because a baseline that is
    too high by chance would cause false alarms. Not thread-safe.
    """

    def __init__(
        self,
        k: int = 10,
        window: int = 100,
        windows: int = 5,
        baseline: RecallBaseline | None = None,
        *,
        rule: RecallRule = RecallRule.CUSUM,
        run_length: float = RUN_LENGTH,
    ) -> None:
        for name, value in (("k", k), ("window", window), ("windows", windows)):
            if value < 1:
                raise InvalidSetting(name, value, "at least 1")
        self.k = k
        self.rule = rule
        self.baseline = baseline.recall if baseline else None
        self.queries = self.found = self.expected = 0
        self.since = self.heard = 0.0
        self._window = window
        self._run_length = run_length
        self._recalls: deque[float] = deque(maxlen=window * windows)
        self._complete: deque[float] = deque(maxlen=windows)
        self._own = baseline
        self._given = baseline is not None
        self._replaceable = baseline is None or baseline.provisional
        self._learned = False
        self._needed = windows if self._given else windows + 1
        self._cusum = Cusum(baseline.normal, run_length) if baseline else None
        self._latch = WarningLatch()
        self._inherited = self._below = False

    def inherit(self, before: RecallBaseline) -> None:
        """Use the baseline of an earlier index of the same model if it is better. Call it before the first query.

        If the recall measured for the new index is below that baseline, the state is `warn` until enough queries have
        shown that it is not.
        """
        if self._inherited or (self.baseline is not None and self.baseline >= before.recall):
            return
        self._below = self._own is not None and _measured_below(self._own, before)
        self.baseline, self._inherited, self._learned = before.recall, True, False
        self._given, self._replaceable, self._needed = True, before.provisional, self._complete.maxlen or 1
        self._cusum = Cusum(before.normal, self._run_length)

    def update(self, found: int, expected: int, now: float = 0.0) -> None:
        """Count one query at Unix time `now`: `found` of `expected` exact hits. Ignored if `expected` is 0."""
        if not 0 <= found <= expected <= self.k:
            raise ValueError(f"found={found}, expected={expected}: need 0 <= found <= expected <= k={self.k}")
        if not expected:
            return
        self.queries += 1
        self.heard = now
        self.found += found
        self.expected += expected
        self._recalls.append(found / expected)
        if self._cusum:
            self._cusum.update(found / expected)
        self._latch.update(self._alarm, not self._latch.held or self._recovered)
        if self.queries % self._window == 0:
            self._complete_window()
        self.since = (self.since or now) if self.state is SignalState.WARN else 0.0

    def _complete_window(self) -> None:
        self._complete.append(fmean(list(self._recalls)[-self._window :]))
        full = len(self._complete) == self._complete.maxlen
        if full and self._learns and self.state is not SignalState.WARN and self.rolling >= LEAST_BASELINE:
            self.baseline = fmean(self._complete)
            self._cusum = Cusum(max(self.interval.lower, LEAST_BASELINE), self._run_length)
            self._learned, self._inherited = True, False
            if not self._given:
                self._needed = self.queries // self._window + 1

    @property
    def _learns(self) -> bool:
        return self._replaceable and not self._learned

    @property
    def rolling(self) -> float:
        """Mean recall of the last window x windows queries; 0 before the first query."""
        return fmean(self._recalls) if self._recalls else 0.0

    @property
    def interval(self) -> ConfidenceInterval:
        """95% interval of `rolling`, computed over queries, not hits; (0, 0) before the first query."""
        if not self._recalls:
            return ConfidenceInterval(0.0, 0.0)
        return recall_interval(np.array(self._recalls), self.k)

    @property
    def ninety_percent(self) -> bool:
        """Whether the ninety-percent rule warns."""
        if self.baseline is None or self.queries < self._needed * self._window:
            return False
        return fmean(self._complete) < FALL * self.baseline

    @property
    def cusum(self) -> bool:
        """Whether the evidence has reached the limit."""
        return self._cusum is not None and self._cusum.alarm

    @property
    def state(self) -> SignalState:
        """`warn`, `ok`, or `unknown` with too few queries."""
        if self._latch.held or self._alarm:
            return SignalState.WARN
        if self.queries < self._enough or self.baseline is None:
            return SignalState.WARN if self._below else SignalState.UNKNOWN
        return SignalState.OK

    @property
    def _alarm(self) -> bool:
        return self.cusum if self.rule is RecallRule.CUSUM else self.ninety_percent

    @property
    def _recovered(self) -> bool:
        """Whether the upper end of the interval is at the normal recall or above. Until then the alarm does not end."""
        return self._cusum is None or self.interval.upper >= self._cusum.baseline

    @property
    def _enough(self) -> int:
        """Queries needed before the state may be `ok`. With a given baseline the cusum needs only one window."""
        return self._window * (1 if self._given and self.rule is RecallRule.CUSUM else self._needed)

    def _reason(self) -> str:
        if self._below and self._own and self.queries < self._enough:
            return (
                f"recall@{self.k} was {self._own.recall:.3f} when this index was built, and {self.baseline:.3f} with "
                f"the previous index; {self.queries} queries compared, {self._enough} needed"
            )
        if self.queries < self._enough:
            return f"{self.queries} queries compared, {self._enough} needed"
        if self.baseline is None:
            return f"recall@{self.k} {self.rolling:.3f}: too low for a baseline, so a fall cannot be detected yet"
        if self.rule is RecallRule.NINETY_PERCENT:
            mean = fmean(self._complete)
            return f"recall@{self.k} {mean:.3f} over complete windows, limit {FALL} x {self.baseline:.3f}"
        evidence = self._cusum.evidence if self._cusum else 0.0
        origin = " (of the previous index)" if self._inherited else ""
        return (
            f"recall@{self.k} {self.rolling:.3f}, baseline {self.baseline:.3f}{origin}; "
            f"evidence of a fall {evidence:,.0f}, limit {self._run_length:,.0f}"
        )

    def report(self) -> RecallReport:
        """Return recall, its interval and the state."""
        interval = self.interval
        return RecallReport(
            state=self.state,
            rule=self.rule,
            reason=self._reason(),
            k=self.k,
            queries=self.queries,
            found=self.found,
            expected=self.expected,
            rolling=self.rolling,
            lower=interval.lower,
            upper=interval.upper,
            baseline=self.baseline or 0.0,
            ninety_percent=self.ninety_percent,
            cusum=self.cusum,
            evidence=self._cusum.evidence if self._cusum else 0.0,
            evidence_limit=self._run_length,
            since=self.since,
            heard=self.heard,
            inherited=self._inherited,
        )

    def memory(self) -> RecallMemory:
        """Return the state to save for a restart."""
        return RecallMemory(
            baseline=self.baseline,
            queries=self.queries,
            found=self.found,
            expected=self.expected,
            since=self.since,
            recalls=tuple(self._recalls),
            complete=tuple(self._complete),
            normal=self._cusum.baseline if self._cusum else None,
            evidences=tuple(self._cusum.evidences.tolist()) if self._cusum else (),
            learned=self._learned,
            heard=self.heard,
            inherited=self._inherited,
            provisional=self._replaceable and not self._learned,
        )

    def restore(self, memory: RecallMemory) -> None:
        """Continue from a saved state. A given baseline stays; if it differs from the saved one, the cusum starts anew.

        Two exceptions: a saved baseline that was learned replaces a provisional one, and a saved baseline of an earlier
        index replaces the given one if it is better.
        """
        if memory.inherited and (before := saved_baseline(memory)):
            self.inherit(before)
        if memory.baseline and memory.normal and self._learns and (memory.learned or not self._given):
            self.baseline = memory.baseline
            self._cusum = Cusum(memory.normal, self._run_length)
            self._learned = True
        if self._cusum and self._cusum.baseline == memory.normal:
            self._cusum.evidences = np.array(memory.evidences)
        self.queries, self.found, self.expected = memory.queries, memory.found, memory.expected
        self.since, self.heard = memory.since, memory.heard
        self._latch = WarningLatch(held=memory.since > 0)
        self._recalls.extend(memory.recalls)
        self._complete.extend(memory.complete)
