"""DriftDetector: tests whether the distribution of recent queries differs from the reference."""

import math
from enum import StrEnum
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.drift.calibration import ScoreCalibration, Times
from embedship.monitor.drift.false_alarms import DEFAULT, FalseAlarms
from embedship.monitor.drift.features import ShiftFeatures
from embedship.monitor.drift.reference import (
    INTERVAL_SECONDS,
    LOOSE_LENGTH_TOLERANCE,
    WINDOW,
    DriftReference,
    FalseAlarmGuarantee,
    require_comparable,
)
from embedship.monitor.drift.repeats import distinct_rows
from embedship.monitor.drift.sessions import Ids, index_of, plain_variance, totals
from embedship.monitor.errors import InvalidSetting
from embedship.monitor.state import SignalState
from embedship.monitor.statistics import (
    Sample,
    SortedSample,
    discovery_mask,
    ks_statistic,
    significance_mask,
)

ALPHA = 0.05
DIMENSIONS_LIMIT = 0.10
SPLITS = 8  # random halvings of the reference; with 3 effective dimensions, one halving gives mostly chance
MINIMUM = 100
LEAST_EFFECTIVE = 50  # number of independent queries to which a reference must be equivalent
# In standard deviations of the features over the reference. 5% of a new topic shift the mean by 0.02 to 0.03, 10% by
# 0.035 to 0.06 (three corpora). A change to a variant with a known offset shifts it by less than chance does.
EFFECT_FLOOR = 0.02
UNKNOWN_VARIANT_FLOOR = 0.05  # an int8 variant without a known offset shifts it by 0.015 to 0.04 (MiniLM, two corpora)
STALE_SECONDS = 3_600.0
UNKNOWN_SESSION = -2


class DriftRule(StrEnum):
    """The rule that decides the state; both are always computed.

    ten_percent  more than 10% of dimensions have p < 0.05: the users' rule. Without drift it fires in 11-15% of checks
                 if the embedding has few effective dimensions, because the dimensions then move together.
    calibrated   the mean of the queries' features, in which new kinds of queries have more weight, has moved further
                 than chance explains within the false-alarm budget, and far enough to matter: `score` is above
                 `threshold`, and `effect` is above `effect_floor`.
    """

    TEN_PERCENT = "ten_percent"
    CALIBRATED = "calibrated"


class DriftReport(msgspec.Struct, frozen=True):
    """Result of one evaluation. While state is `unknown`, the ratios and statistics are 0 and mean nothing."""

    state: SignalState
    rule: DriftRule
    reason: str
    samples: int = 0  # queries in the window
    distinct: int = 0  # distinct queries in the window: the number tested
    effective: float = 0.0  # number of independent queries with the same evidence: those of one session are dependent
    reference: int = 0  # vectors in the reference
    score: float = 0.0  # squared shift of the mean, relative to its value without drift: about 1 without drift
    threshold: float = 0.0  # limit for the score, from the false-alarm budget
    pvalue: float = 1.0  # probability of this score or a higher one in one evaluation without drift
    effect: float = 0.0  # shift of the mean beyond sampling noise, in standard deviations of the reference
    effect_floor: float = 0.0  # limit for the effect: a smaller shift does not matter
    promised_per_day: float = 0.0  # false alarms in the budget
    measured_per_day: float = 0.0  # false alarms on the reference's held-out blocks, at this threshold
    measured_lower_per_day: float = 0.0  # ends of its 95% interval, clustered by block
    measured_upper_per_day: float = 0.0
    since: float = 0.0  # Unix time of the first evaluation of the current warning; 0 without a warning
    dimensions_ratio: float = 0.0  # dimensions with p < 0.05
    bonferroni_ratio: float = 0.0  # dimensions with p < 0.05 / d
    discovery_ratio: float = 0.0  # dimensions found by Benjamini and Hochberg at a false discovery rate of 0.05
    statistic_median: float = 0.0  # median KS distance D over dimensions
    statistic_noise: float = 0.0  # the same without drift: for the reference against itself, with these sample sizes
    ten_percent: bool = False
    calibrated: bool = False


class _MeanShift(NamedTuple):
    """How far the mean of the window is from that of the reference."""

    score: float
    effect: float
    effective: float


class _FittedTest(NamedTuple):
    """Everything a test needs from the reference, prepared once: 0.5 s for 2,000 x 384."""

    ordered: SortedSample
    features: ShiftFeatures
    calibration: ScoreCalibration
    promise: FalseAlarmGuarantee
    noise: float

    @classmethod
    def from_reference(
        cls, reference: DriftReference, window: int, false_alarms: FalseAlarms | None, seconds: float
    ) -> "_FittedTest":
        """Prepare a test of windows of `window` queries that is repeated every `seconds`."""
        calibration = reference.calibration_for(window)
        budget = false_alarms or (reference.promise.false_alarms if reference.promise else DEFAULT)
        return cls(
            SortedSample.from_rows(reference.vectors),
            reference.features_for(window),
            calibration,
            FalseAlarmGuarantee.from_calibration(calibration, budget, seconds),
            _noise(reference.vectors),
        )


class DriftDetector:
    """Compares the last `window` query vectors with a reference.

    >>> queries = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    >>> detector = DriftDetector(DriftReference.fit(queries[:200], fingerprint="f00d"))
    >>> detector.update(queries[200:])
    >>> str(detector.evaluate().state)
    'ok'

    Memory: window x d x 4 bytes and the sorted reference. Not thread-safe.
    """

    def __init__(
        self,
        reference: DriftReference | None,
        *,
        fingerprint: str | None = None,
        variant: str | None = None,
        window: int = WINDOW,
        minimum: int = MINIMUM,
        rule: DriftRule = DriftRule.CALIBRATED,
        false_alarms: FalseAlarms | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        """fingerprint: that of the model that encodes the queries; with a reference of another model the state is
        `unknown`. variant: the one that encodes the queries; the reference can contain its offset of the mean.

        false_alarms: the budget when `evaluate` is called every interval_seconds; None for the reference's own. If the
        last query is older than stale_seconds, the state is `unknown`. Nothing is fitted here; see `prepare`. Raises
        InvalidSetting.
        """
        if minimum < 2:
            raise InvalidSetting("minimum", minimum, "at least 2")
        if window < minimum:
            raise InvalidSetting("window", window, f"at least minimum, {minimum}")
        self.rule = rule
        self._minimum = minimum
        self._stale = stale_seconds
        self._reference, self._budget, self._interval = reference, false_alarms, interval_seconds
        self._fitted: _FittedTest | None = None
        self._obstacle = _obstacle(reference, fingerprint, minimum)
        self._count = 0
        self._since = 0.0
        if reference is None or self._obstacle:
            return
        dimensions = reference.vectors.shape[1]
        known = variant is None or variant in reference.offsets
        self._offset = reference.offsets.get(variant or "", np.zeros(dimensions, dtype=np.float32))
        self._floor = EFFECT_FLOOR if known else UNKNOWN_VARIANT_FLOOR
        self._unit = reference.is_unit
        self._ring = np.empty((window, dimensions), dtype=np.float32)
        self._sessions = np.empty(window, dtype=np.int64)
        self._times = np.empty(window)

    def prepare(self) -> None:
        """Fit what a test needs from the reference, or find out that no test is possible. `evaluate` calls it too.

        It takes half a second for 2,000 x 384 on one core. It takes three or four seconds if thresholds must be fitted:
        for a reference of an older format, or for another window size than the reference was calibrated for.
        """
        if self._reference is None or self._fitted or self._obstacle:
            return
        reference = self._reference.calibrated()
        self._obstacle = _worth(reference)
        if not self._obstacle:
            self._fitted = _FittedTest.from_reference(reference, len(self._ring), self._budget, self._interval)

    def update(self, vectors: NDArray[np.float32], sessions: Ids | None = None, times: Times | None = None) -> None:
        """Add query vectors (n, d) and drop the oldest. Raises InvalidVectors.

        sessions (n,): queries with the same number belong together and count as one piece of evidence; a negative
        number is a session of one query. None: unknown, the sessions are assumed to be like those of the reference.
        times (n,): Unix seconds.
        """
        if self._obstacle:
            return
        window, dimensions = self._ring.shape
        require_comparable(vectors, dimensions, self._unit, LOOSE_LENGTH_TOLERANCE)
        places = (np.arange(self._count, self._count + len(vectors)) % window)[-window:]
        n = len(places)
        self._ring[places] = vectors[-n:]
        self._sessions[places] = UNKNOWN_SESSION if sessions is None else sessions[-n:]
        self._times[places] = math.nan if times is None else times[-n:]
        self._count += len(vectors)

    def evaluate(self, now: float = 0.0) -> DriftReport:
        """Test the window against the reference at Unix time now."""
        report = self._evaluate(now)
        self._since = (self._since or now) if report.state is SignalState.WARN else 0.0
        return msgspec.structs.replace(report, since=self._since)

    def untested(self) -> DriftReport:
        """Return a report with only the number of queries in the window, for the time before the first test."""
        return self._unknown(self._obstacle or "not tested yet", 0 if self._obstacle else self._filled(), 0)

    def _filled(self) -> int:
        return min(self._count, len(self._ring))

    def _evaluate(self, now: float) -> DriftReport:
        if self._obstacle:
            return self._unknown(self._obstacle, 0, 0)
        filled = self._filled()
        oldest_first = np.arange(self._count - filled, self._count) % len(self._ring)
        if age := self._age(now, filled):
            return self._unknown(f"the last query is {age:,.0f} seconds old", filled, 0)
        rows = distinct_rows(self._ring[oldest_first]) if filled else np.empty(0, dtype=np.intp)
        if len(rows) < self._minimum:
            return self._unknown(f"{len(rows)} distinct queries, {self._minimum} needed", filled, len(rows))
        self.prepare()
        if self._fitted is None:
            return self._unknown(self._obstacle, 0, 0)
        return self._test(self._fitted, oldest_first[rows], filled)

    def _age(self, now: float, filled: int) -> float:
        """Return the seconds since the last query if they exceed stale_seconds, else 0. Also 0 if no time is known."""
        times = self._times[:filled]
        known = times[~np.isnan(times)]
        age = now - float(known.max()) if now and len(known) else 0.0
        return age if age > self._stale else 0.0

    def _unknown(self, reason: str, samples: int, distinct: int) -> DriftReport:
        size = 0 if self._reference is None else len(self._reference.vectors)
        return DriftReport(SignalState.UNKNOWN, self.rule, reason, samples, distinct, reference=size)

    def _shift(self, fitted: _FittedTest, vectors: Sample, sessions: Ids) -> _MeanShift:
        """Measure how far the mean of the queries' features is from 0, its value without drift."""
        rows, calibration = fitted.features.apply(vectors), fitted.calibration
        window, plain = totals(rows, index_of(sessions, len(rows))), plain_variance(rows)
        design = max(1.0, window.variance / plain) if plain else 1.0
        if (sessions == UNKNOWN_SESSION).any():
            design = max(design, calibration.design)
        variance = plain * design + calibration.variance
        square = float((window.mean**2).sum())
        spread = calibration.variance * calibration.effective
        return _MeanShift(square / variance, math.sqrt(max(0.0, square - variance) / spread), len(rows) / design)

    def _test(self, fitted: _FittedTest, chosen: NDArray[np.intp], samples: int) -> DriftReport:
        rows = self._ring[chosen] - self._offset
        n, m, promise = fitted.ordered.size, len(rows), fitted.promise
        shift = self._shift(fitted, rows, self._sessions[chosen])
        statistic = ks_statistic(fitted.ordered, rows)
        dimensions = float(significance_mask(statistic, n, m, ALPHA).mean())
        fired = {
            DriftRule.TEN_PERCENT: dimensions > DIMENSIONS_LIMIT,
            DriftRule.CALIBRATED: shift.score > promise.threshold and shift.effect > self._floor,
        }
        return DriftReport(
            state=SignalState.WARN if fired[self.rule] else SignalState.OK,
            rule=self.rule,
            reason=f"the squared shift of the mean is {shift.score:.2f} times its value without drift "
            f"(limit {promise.threshold:.2f}), and the effect is {shift.effect:.3f} (limit {self._floor}); "
            f"{dimensions:.1%} of dimensions have p < {ALPHA}",
            samples=samples,
            distinct=m,
            effective=shift.effective,
            reference=n,
            score=shift.score,
            threshold=promise.threshold,
            pvalue=math.exp(fitted.calibration.log_chance(shift.score)),
            effect=shift.effect,
            effect_floor=self._floor,
            promised_per_day=promise.false_alarms.per_day,
            measured_per_day=promise.measured_per_day,
            measured_lower_per_day=promise.measured_lower_per_day,
            measured_upper_per_day=promise.measured_upper_per_day,
            dimensions_ratio=dimensions,
            bonferroni_ratio=float(significance_mask(statistic, n, m, ALPHA / len(statistic)).mean()),
            discovery_ratio=float(discovery_mask(statistic, n, m, ALPHA).mean()),
            statistic_median=float(np.median(statistic)),
            statistic_noise=fitted.noise * math.sqrt((1 / n + 1 / m) / (2 / (n // 2))),
            ten_percent=fired[DriftRule.TEN_PERCENT],
            calibrated=fired[DriftRule.CALIBRATED],
        )


def _obstacle(reference: DriftReference | None, fingerprint: str | None, minimum: int) -> str:
    """Return why no test is possible; empty if no reason is known before thresholds are fitted."""
    if reference is None:
        return "no drift reference"
    if fingerprint is not None and reference.fingerprint != fingerprint:
        return f"the reference belongs to model {reference.fingerprint[:12]}, not to {fingerprint[:12]}"
    if len(reference.vectors) < minimum:
        return f"{len(reference.vectors)} vectors in the reference, {minimum} needed"
    return "" if reference.terms else _worth(reference)


def _worth(reference: DriftReference) -> str:
    """Return why the thresholds of this reference cannot promise a false-alarm rate; empty if they can."""
    worth = reference.calibration.effective if reference.calibration else 0.0
    if worth < LEAST_EFFECTIVE:
        return (
            f"the reference is worth only {worth:.0f} independent queries, and a promised false-alarm rate needs "
            f"{LEAST_EFFECTIVE}: fit it on more sessions"
        )
    return ""


def _noise(vectors: Sample) -> float:
    """Return the median D without drift: between random halves of the reference, averaged over SPLITS halvings."""
    random = np.random.default_rng(0)
    half = len(vectors) // 2
    medians = []
    for _ in range(SPLITS):
        order = random.permutation(len(vectors))
        medians.append(np.median(ks_statistic(vectors[order[:half]], vectors[order[half : 2 * half]])))
    return float(np.mean(medians))
