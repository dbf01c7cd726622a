"""Tests a complete log of queries against a reference: whether they drifted, how, and since when. Pure functions."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.drift.calibration import Times
from embedship.monitor.drift.detector import MINIMUM, DriftDetector, DriftReport, DriftRule
from embedship.monitor.drift.evidence import DriftEvidence, ReferenceClusters
from embedship.monitor.drift.false_alarms import DAY_SECONDS, FalseAlarms
from embedship.monitor.drift.reference import DriftReference, require_comparable
from embedship.monitor.drift.sessions import Ids
from embedship.monitor.drift.two_sample import PooledSample, TwoSample, mmd
from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.state import SignalState
from embedship.monitor.statistics import ks_2samp

BLOCKS = 24
BLOCK_QUERIES = 150  # enough for MINIMUM distinct queries in most logs
MMD_ROWS = 1_000  # of each sample; the time grows with the product of the two numbers, and is 0.3 s for 1,000 each

Vectors = NDArray[np.float32]


class LoggedQueries(msgspec.Struct, frozen=True):
    """A log: vectors (n, d) float32; if known, sessions (n,), ascending Unix times (n,) and texts (n,)."""

    vectors: Vectors
    sessions: Ids | None = None
    times: Times | None = None
    texts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, start: int, stop: int) -> "LoggedQueries":
        """Return the queries from start to stop."""
        return LoggedQueries(
            self.vectors[start:stop],
            None if self.sessions is None else self.sessions[start:stop],
            None if self.times is None else self.times[start:stop],
            None if self.texts is None else self.texts[start:stop],
        )


class LogBlock(msgspec.Struct, frozen=True):
    """A part of the log between two Unix times, with the result of its own test."""

    start: float
    end: float
    queries: int
    state: SignalState
    score: float
    threshold: float
    effect: float


class DriftComparison(msgspec.Struct, frozen=True):
    """Result for a log.

    state: that of the whole log, or `warn` if a block warns, because the whole log can hide drift that began late.
    mmd: a test that detects more than a shift of the mean, for comparison; its p-value is at least 0.005. statistics
    and pvalues (d,): the Kolmogorov-Smirnov test of each dimension. blocks: empty without times, or with fewer queries
    than two blocks need. since: the start of the first block that warns, 0 if none does.
    """

    state: SignalState
    report: DriftReport
    mmd: TwoSample | None = None
    statistics: tuple[float, ...] = ()
    pvalues: tuple[float, ...] = ()
    blocks: tuple[LogBlock, ...] = ()
    since: float = 0.0
    evidence: DriftEvidence = DriftEvidence()


def compare(
    reference: DriftReference,
    current: LoggedQueries,
    *,
    variant: str | None = None,
    rule: DriftRule = DriftRule.CALIBRATED,
    false_alarms: FalseAlarms | None = None,
    interval_seconds: float = DAY_SECONDS,
    named: int = 0,
) -> DriftComparison:
    """Test the log as one window, and each block of it.

    The budget of false alarms (None: the reference's own) is for one call every interval_seconds. Half of it is for the
    log as one window, and half for all blocks together (Bonferroni); without blocks, all of it is for the log. variant:
    the one that encoded the log. named: the number of furthest queries to list in the evidence. Raises InvalidVectors.
    """
    require_comparable(current.vectors, reference.vectors.shape[1], reference.is_unit)

    def detector(window: int, seconds: float) -> DriftDetector:
        return DriftDetector(
            reference,
            variant=variant,
            window=max(window, MINIMUM),
            rule=rule,
            false_alarms=false_alarms,
            interval_seconds=seconds,
        )

    count = _count(current)
    report = _tested(detector(len(current), interval_seconds / (2 if count else 1)), current)
    if report.state is SignalState.UNKNOWN:
        return DriftComparison(report.state, report)
    moved = _at_checkpoint(current, reference, variant)
    tests = ks_2samp(reference.vectors, moved.vectors)
    blocks: tuple[LogBlock, ...] = ()
    if count:
        blocks = _blocks(detector(len(current) // count, interval_seconds / (2 * count)), current, count)
    return DriftComparison(
        state=SignalState.WARN if any(block.state is SignalState.WARN for block in blocks) else report.state,
        report=report,
        mmd=_mmd(reference, moved),
        statistics=tuple(tests.statistic.tolist()),
        pvalues=tuple(tests.pvalue.tolist()),
        blocks=blocks,
        since=next((block.start for block in blocks if block.state is SignalState.WARN), 0.0),
        evidence=ReferenceClusters.fit(reference.vectors).compare(_window(moved), named),
    )


def _count(current: LoggedQueries) -> int:
    """Return the number of blocks: 0 without times, or with too few queries for two."""
    count = 0 if current.times is None else min(BLOCKS, len(current) // BLOCK_QUERIES)
    return count if count > 1 else 0


def _tested(detector: DriftDetector, part: LoggedQueries) -> DriftReport:
    detector.update(part.vectors, part.sessions, part.times)
    return detector.evaluate()


def _blocks(detector: DriftDetector, current: LoggedQueries, count: int) -> tuple[LogBlock, ...]:
    """Test blocks with equal numbers of queries. The remaining queries, at the beginning of the log, are left out."""
    size = len(current) // count
    starts = range(len(current) - count * size, len(current), size)
    return tuple(_block(detector, current.part(start, start + size)) for start in starts)


def _block(detector: DriftDetector, part: LoggedQueries) -> LogBlock:
    assert part.times is not None, "blocks need times"
    report = _tested(detector, part)
    return LogBlock(
        start=float(part.times[0]),
        end=float(part.times[-1]),
        queries=len(part),
        state=report.state,
        score=report.score,
        threshold=report.threshold,
        effect=report.effect,
    )


def _at_checkpoint(current: LoggedQueries, reference: DriftReference, variant: str | None) -> LoggedQueries:
    """Subtract the known shift that the variant gives every vector."""
    offset = reference.offsets.get(variant or "")
    return current if offset is None else msgspec.structs.replace(current, vectors=current.vectors - offset)


def _mmd(reference: DriftReference, current: LoggedQueries) -> TwoSample:
    first, second = _sample(reference.vectors, reference.sessions), _sample(current.vectors, current.sessions)
    return mmd(PooledSample.from_samples(first[0], second[0], first[1], second[1]))


def _sample(vectors: Vectors, sessions: Ids | None) -> tuple[Vectors, Ids | None]:
    if len(vectors) <= MMD_ROWS:
        return vectors, sessions
    rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[:MMD_ROWS])
    return vectors[rows], None if sessions is None else sessions[rows]


def _window(current: LoggedQueries) -> QueryWindow:
    n = len(current)
    return QueryWindow(
        vectors=current.vectors,
        times=np.zeros(n) if current.times is None else current.times,
        calls=np.full(n, -1, dtype=np.int64),
        texts=current.texts or (None,) * n,
    )
