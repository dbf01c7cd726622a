"""Has the distribution of queries moved away from the reference?"""

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
    discovered,
    ks_statistic,
    significant,
)

ALPHA = 0.05
DIMENSIONS_LIMIT = 0.10
SPLITS = 8  # halvings of the reference: with 3 effective dimensions the median D of one halving is mostly luck
MINIMUM = 100
LEAST_EFFECTIVE = 50  # independent queries that a reference must be worth
# Standard deviations of the features over the reference. 5% of a new topic move their mean by 0.02 to 0.03, 10% by
# 0.035 to 0.06 (three corpora); a change of variant by less than chance does once its offset is known.
EFFECT_FLOOR = 0.02
UNKNOWN_VARIANT_FLOOR = 0.05  # an int8 variant without a known offset: 0.015 to 0.04 (MiniLM, two corpora)
STALE_SECONDS = 3_600.0
UNKNOWN_SESSION = -2


class DriftRule(StrEnum):
    """Which result decides the state; both are always computed.

    ten_percent  more than 10% of dimensions have p < 0.05: the users' rule. Fires without drift in 11-15% of checks
                 when the embedding has few effective dimensions, for then the dimensions move together.
    calibrated   the mean of the queries' features, in which new ones count more, has moved further than the
                 false-alarm budget allows to chance, and further than matters: `score` above `threshold`, and `effect`
                 above `effect_floor`.
    """

    TEN_PERCENT = "ten_percent"
    CALIBRATED = "calibrated"


class DriftReport(msgspec.Struct, frozen=True):
    """One evaluation. While state is `unknown`, the ratios and statistics are 0 and mean nothing."""

    state: SignalState
    rule: DriftRule
    reason: str
    samples: int = 0  # queries in the window
    distinct: int = 0  # of them different from each other: the number tested
    effective: float = 0.0  # independent queries that carry as much evidence: sessions count less than their queries
    reference: int = 0  # vectors in the reference
    score: float = 0.0  # squared shift of the mean, relative to what it is without drift: about 1 without drift
    threshold: float = 0.0  # what the score must exceed, by the false-alarm budget
    pvalue: float = 1.0  # chance of such a score in one evaluation without drift
    effect: float = 0.0  # shift of the mean beyond sampling noise, in standard deviations of the reference
    effect_floor: float = 0.0  # what the effect must exceed to matter
    promised_per_day: float = 0.0  # false alarms: the budget
    measured_per_day: float = 0.0  # false alarms on the reference's held-out blocks, at this threshold
    measured_lower_per_day: float = 0.0  # the ends of its 95% interval, clustered by block
    measured_upper_per_day: float = 0.0
    since: float = 0.0  # Unix time of the first evaluation of this run of warnings; 0 while there is none
    dimensions_ratio: float = 0.0  # dimensions with p < 0.05
    bonferroni_ratio: float = 0.0  # dimensions with p < 0.05 / d
    discovery_ratio: float = 0.0  # dimensions found by Benjamini and Hochberg at a false discovery rate of 0.05
    statistic_median: float = 0.0  # median KS distance D over dimensions
    statistic_noise: float = 0.0  # the same of the reference against itself, at these sizes: what no drift looks like
    ten_percent: bool = False
    calibrated: bool = False


class _MeanShift(NamedTuple):
    """How far the mean of the window lies from that of the reference."""

    score: float
    effect: float
    effective: float


class _FittedTest(NamedTuple):
    """What a test needs of the reference beside its vectors: half a second of work for 2,000 of 384 dimensions."""

    ordered: SortedSample
    features: ShiftFeatures
    calibration: ScoreCalibration
    promise: FalseAlarmGuarantee
    noise: float

    @classmethod
    def of(
        cls, reference: DriftReference, window: int, false_alarms: FalseAlarms | None, seconds: float
    ) -> "_FittedTest":
        """For windows of so many queries, tested each so many seconds."""
        calibration = reference.calibration_for(window)
        budget = false_alarms or (reference.promise.false_alarms if reference.promise else DEFAULT)
        return cls(
            SortedSample.of(reference.vectors),
            reference.features_for(window),
            calibration,
            FalseAlarmGuarantee.of(calibration, budget, seconds),
            _noise(reference.vectors),
        )


class DriftDetector:
    """Compare the last `window` query vectors with a reference.

    >>> queries = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    >>> detector = DriftDetector(Reference.fit(queries[:200], fingerprint="f00d"))
    >>> detector.update(queries[200:])
    >>> str(detector.evaluate().state)
    'ok'

    Memory is window x d x 4 bytes and the sorted reference. Not safe for several threads at once.
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
        """Take the fingerprint of the model that encodes the queries: another model's reference answers `unknown`.

        variant is the one that encodes them: the reference knows how far it moves the mean. false_alarms is the budget,
        None for the reference's own, when `evaluate` is called each interval_seconds; a window whose last query is
        older than stale_seconds answers `unknown`. Nothing is fitted here: see `prepare`.
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
        """Fit what a test needs of the reference, or find that it can promise nothing; `evaluate` does it else.

        It takes half a second for 2,000 x 384 on one core, and three or four where thresholds are to be fitted, for a
        reference of an older format or for windows of another size than it was calibrated for.
        """
        if self._reference is None or self._fitted or self._obstacle:
            return
        reference = self._reference.calibrated()
        self._obstacle = _worth(reference)
        if not self._obstacle:
            self._fitted = _FittedTest.of(reference, len(self._ring), self._budget, self._interval)

    def update(self, vectors: NDArray[np.float32], sessions: Ids | None = None, times: Times | None = None) -> None:
        """Add query vectors (n, d); the oldest leave. Raises InvalidVectors.

        sessions (n,): queries of one number belong together and count as one piece of evidence; negative: alone. None:
        not known, and the window is taken to hold sessions like those of the reference. times (n,): Unix seconds.
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
        """Say how many queries the window holds, and no more: what is known before the first test."""
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
        """Seconds since the last query if that is too long; 0 if not, or if no times were given."""
        times = self._times[:filled]
        known = times[~np.isnan(times)]
        age = now - float(known.max()) if now and len(known) else 0.0
        return age if age > self._stale else 0.0

    def _unknown(self, reason: str, samples: int, distinct: int) -> DriftReport:
        size = 0 if self._reference is None else len(self._reference.vectors)
        return DriftReport(SignalState.UNKNOWN, self.rule, reason, samples, distinct, reference=size)

    def _shift(self, fitted: _FittedTest, vectors: Sample, sessions: Ids) -> _MeanShift:
        """Measure how far the mean of the queries' features lies from 0, where it lies without drift."""
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
        dimensions = float(significant(statistic, n, m, ALPHA).mean())
        fired = {
            DriftRule.TEN_PERCENT: dimensions > DIMENSIONS_LIMIT,
            DriftRule.CALIBRATED: shift.score > promise.threshold and shift.effect > self._floor,
        }
        return DriftReport(
            state=SignalState.WARN if fired[self.rule] else SignalState.OK,
            rule=self.rule,
            reason=f"mean shift {shift.score:.2f} times that of no drift, limit {promise.threshold:.2f}; "
            f"effect {shift.effect:.3f}, limit {self._floor}; {dimensions:.1%} of dimensions at p < {ALPHA}",
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
            bonferroni_ratio=float(significant(statistic, n, m, ALPHA / len(statistic)).mean()),
            discovery_ratio=float(discovered(statistic, n, m, ALPHA).mean()),
            statistic_median=float(np.median(statistic)),
            statistic_noise=fitted.noise * math.sqrt((1 / n + 1 / m) / (2 / (n // 2))),
            ten_percent=fired[DriftRule.TEN_PERCENT],
            calibrated=fired[DriftRule.CALIBRATED],
        )


def _obstacle(reference: DriftReference | None, fingerprint: str | None, minimum: int) -> str:
    """Why no test is possible at all; empty if one is, as far as can be said before thresholds are fitted."""
    if reference is None:
        return "no drift reference"
    if fingerprint is not None and reference.fingerprint != fingerprint:
        return f"the reference belongs to model {reference.fingerprint[:12]}, not to {fingerprint[:12]}"
    if len(reference.vectors) < minimum:
        return f"{len(reference.vectors)} vectors in the reference, {minimum} needed"
    return "" if reference.terms else _worth(reference)


def _worth(reference: DriftReference) -> str:
    """Why its thresholds promise nothing; empty if they do."""
    worth = reference.calibration.effective if reference.calibration else 0.0
    if worth < LEAST_EFFECTIVE:
        return (
            f"the reference is worth {worth:.0f} independent queries, and {LEAST_EFFECTIVE} are needed to promise a "
            "rate of false alarms: fit it on more sessions"
        )
    return ""


def _noise(vectors: Sample) -> float:
    """Median D between random halves of the reference, averaged over seeded halvings: what no drift looks like."""
    random = np.random.default_rng(0)
    half = len(vectors) // 2
    medians = []
    for _ in range(SPLITS):
        order = random.permutation(len(vectors))
        medians.append(np.median(ks_statistic(vectors[order[:half]], vectors[order[half : 2 * half]])))
    return float(np.mean(medians))
