"""Does the index still find what an exact search finds?"""

from collections import deque
from enum import StrEnum
from statistics import fmean  # exactly rounded: 0.9 ten times has mean 0.9, and is not below 0.9
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
LEAST_BASELINE = 0.01  # what found nothing from the start, an index that is being filled, has no fall to find yet
NO_HIT = -1

Ids = NDArray[np.int64]


class RecallRule(StrEnum):
    """Which result decides the state; both are always computed.

    ninety_percent  the mean of the last 5 complete windows of 100 queries is below 0.9 x baseline: the users' rule.
                    It cannot see a fall of 5 points.
    cusum           evidence by query, with a promised number of queries between false alarms.
    """

    NINETY_PERCENT = "ninety_percent"
    CUSUM = "cusum"


class RecallBaseline(NamedTuple):
    """Recall as it was measured before it is watched, in (0, 1].

    `normal` is what the cusum takes for normal: `recall` less what that measurement may be out by, for else a lucky one
    raises false alarms. A `provisional` one was measured on other queries than will come. It holds until the first
    windows of these are complete, and is replaced by them unless they warn.
    """

    recall: float
    normal: float
    provisional: bool = False

    @classmethod
    def exact(cls, recall: float) -> "RecallBaseline":
        """One that leaves nothing to chance."""
        return cls(recall, recall)


class RecallReport(msgspec.Struct, frozen=True):
    """Recall so far. With queries 0 the ratios are 0 and mean nothing; baseline 0 means not known yet."""

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
    evidence_limit: float = 0.0  # the cusum alarms from here: the average number of queries between false alarms
    since: float = 0.0  # Unix time of the first query of this run of warnings; 0 while there is none
    heard: float = 0.0  # Unix time of the last query counted
    inherited: bool = False  # the baseline is that of an earlier index of the same model, which was better

    def aged(self, now: float, seconds: float) -> "RecallReport":
        """What it still says at Unix time now: nothing, if the last query was counted so many seconds ago or more."""
        if not self.queries or now - self.heard < seconds:
            return self
        reason = f"no query compared in the last {seconds:,.0f} s"
        return msgspec.structs.replace(self, state=SignalState.UNKNOWN, reason=reason, since=0.0)


class RecallMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a RollingRecall must not forget when the server is restarted."""

    baseline: float | None
    queries: int
    found: int
    expected: int
    since: float
    recalls: tuple[float, ...]
    complete: tuple[float, ...]
    normal: float | None  # the recall that the cusum takes for normal
    evidences: tuple[float, ...]
    learned: bool = False  # the baseline: from the queries themselves
    heard: float = 0.0
    inherited: bool = False  # the baseline: from an earlier index of the same model
    provisional: bool = False  # the baseline: measured on other queries than will come


def baseline_of(memory: RecallMemory) -> RecallBaseline | None:
    """The baseline that was remembered; None if there was none yet."""
    if not memory.baseline or not memory.normal:
        return None
    return RecallBaseline(memory.baseline, memory.normal, provisional=memory.provisional)


def _measured_below(own: RecallBaseline, before: RecallBaseline) -> bool:
    """Whether what was measured when an index was built lies below the baseline before, beyond chance."""
    if own.provisional:  # measured on other queries than will come
        return own.recall < FALL * before.recall
    return own.recall + (own.recall - own.normal) < before.normal


def overlap(approximate: Ids, exact: Ids) -> tuple[Ids, Ids]:
    """Count, per query, the exact hits found and the exact hits: both (n,), from ids (n, k) where -1 is no hit."""
    real = exact != NO_HIT
    present = (exact[:, :, None] == approximate[:, None, :]).any(axis=2)
    return (present & real).sum(axis=1), real.sum(axis=1)


class RollingRecall:
    """Recall@k over the last `windows` windows of `window` queries of one source, and two alarms on it.

    The baseline is given (from the index or a setting: preferred), or learned from the first `windows` complete
    windows. A learned one says `unknown` until a window beyond them is complete, for a mean compared with itself proves
    nothing, and the cusum then takes the lower end of its 95% interval, for a lucky start must not raise false alarms.
    Not safe for several threads at once.
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
        """Compare with the baseline of an earlier index of the same model, if that is the better one.

        Before the first query. A new index whose own measurement lies below it warns until its queries prove otherwise.
        """
        if self._inherited or (self.baseline is not None and self.baseline >= before.recall):
            return
        self._below = self._own is not None and _measured_below(self._own, before)
        self.baseline, self._inherited, self._learned = before.recall, True, False
        self._given, self._replaceable, self._needed = True, before.provisional, self._complete.maxlen or 1
        self._cusum = Cusum(before.normal, self._run_length)

    def update(self, found: int, expected: int, now: float = 0.0) -> None:
        """Count one query at Unix time now: found of the expected exact hits; one that expects none says nothing."""
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
        """Mean recall of the last window x windows queries; 0 before the first."""
        return fmean(self._recalls) if self._recalls else 0.0

    @property
    def interval(self) -> ConfidenceInterval:
        """95% interval of `rolling`, the query being the unit; (0, 0) before the first query."""
        if not self._recalls:
            return ConfidenceInterval(0.0, 0.0)
        return recall_interval(np.array(self._recalls), self.k)

    @property
    def ninety_percent(self) -> bool:
        """Whether the users' rule warns."""
        if self.baseline is None or self.queries < self._needed * self._window:
            return False
        return fmean(self._complete) < FALL * self.baseline

    @property
    def cusum(self) -> bool:
        """Whether the evidence has reached the limit."""
        return self._cusum is not None and self._cusum.alarm

    @property
    def state(self) -> SignalState:
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
        """Whether the interval reaches what is normal again; while it lies below, no alarm has ended."""
        return self._cusum is None or self.interval.upper >= self._cusum.baseline

    @property
    def _enough(self) -> int:
        """Queries that the rule needs before it may say `ok`; with a given baseline the cusum is content with few."""
        return self._window * (1 if self._given and self.rule is RecallRule.CUSUM else self._needed)

    def _reason(self) -> str:
        if self._below and self._own and self.queries < self._enough:
            return (
                f"recall@{self.k} was {self._own.recall:.3f} when this index was built, and {self.baseline:.3f} with "
                f"the index before it; {self.queries} queries compared, {self._enough} needed"
            )
        if self.queries < self._enough:
            return f"{self.queries} queries compared, {self._enough} needed"
        if self.baseline is None:
            return f"recall@{self.k} {self.rolling:.3f}: nothing was found yet that a fall could be measured from"
        if self.rule is RecallRule.NINETY_PERCENT:
            mean = fmean(self._complete)
            return f"recall@{self.k} {mean:.3f} over complete windows, limit {FALL} x {self.baseline:.3f}"
        evidence = self._cusum.evidence if self._cusum else 0.0
        origin = " (of the index before)" if self._inherited else ""
        return (
            f"recall@{self.k} {self.rolling:.3f}, baseline {self.baseline:.3f}{origin}; "
            f"evidence of a fall {evidence:,.0f}, limit {self._run_length:,.0f}"
        )

    def report(self) -> RecallReport:
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

    def remember(self, memory: RecallMemory) -> None:
        """Go on where another one ended. A given baseline stays, and its cusum begins anew if it was another one.

        A provisional one gives way to what was learned, and one that is worse to that of an earlier index.
        """
        if memory.inherited and (before := baseline_of(memory)):
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
