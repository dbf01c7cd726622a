"""A whole log of queries against a reference, after the fact: did they drift, how, and since when? Pure."""

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
BLOCK_QUERIES = 150  # enough for MINIMUM distinct ones in most logs
MMD_ROWS = 1_000  # of each sample: the test costs their product, 0.3 s here

Vectors = NDArray[np.float32]


class LoggedQueries(msgspec.Struct, frozen=True):
    """The log: vectors (n, d) float32; where known sessions (n,) and Unix times (n,), ascending; texts (n,)."""

    vectors: Vectors
    sessions: Ids | None = None
    times: Times | None = None
    texts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, start: int, stop: int) -> "LoggedQueries":
        return LoggedQueries(
            self.vectors[start:stop],
            None if self.sessions is None else self.sessions[start:stop],
            None if self.times is None else self.times[start:stop],
            None if self.texts is None else self.texts[start:stop],
        )


class LogBlock(msgspec.Struct, frozen=True):
    """A stretch of the log between two Unix times, tested by itself."""

    start: float
    end: float
    queries: int
    state: SignalState
    score: float
    threshold: float
    effect: float


class DriftComparison(msgspec.Struct, frozen=True):
    """`state` is that of the whole log, or `warn` if a block warns: what began late is diluted in the whole.

    mmd looks at more than the mean, and is there to be compared; its p-value is at least 0.005. statistics and pvalues
    (d,) are those of the Kolmogorov-Smirnov test of each dimension. blocks are empty without times, or with fewer than
    two blocks' worth of queries; since is the start of the first one that warns, 0 if none.
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
    """Test the log as one window, and each stretch of time in it.

    The budget of false alarms (None: the reference's own) is spent on one call each interval_seconds: half of it on the
    log as one window, half on its blocks together (Bonferroni); all on the log if it has no blocks. variant is the one
    that encoded it; named is how many of the furthest queries the evidence names. Raises InvalidVectors.
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
    """How many blocks: none without times, or with too few queries for two."""
    count = 0 if current.times is None else min(BLOCKS, len(current) // BLOCK_QUERIES)
    return count if count > 1 else 0


def _tested(detector: DriftDetector, part: LoggedQueries) -> DriftReport:
    detector.update(part.vectors, part.sessions, part.times)
    return detector.evaluate()


def _blocks(detector: DriftDetector, current: LoggedQueries, count: int) -> tuple[LogBlock, ...]:
    """Cut into blocks of equally many queries; the few that are over are left out at the beginning."""
    size = len(current) // count
    starts = range(len(current) - count * size, len(current), size)
    return tuple(_block(detector, current.part(start, start + size)) for start in starts)


def _block(detector: DriftDetector, part: LoggedQueries) -> LogBlock:
    assert part.times is not None, "blocks are of time"
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
    """Undo what is known of how the variant moves every vector."""
    offset = reference.offsets.get(variant or "")
    return current if offset is None else msgspec.structs.replace(current, vectors=current.vectors - offset)


def _mmd(reference: DriftReference, current: LoggedQueries) -> TwoSample:
    first, second = _sample(reference.vectors, reference.sessions), _sample(current.vectors, current.sessions)
    return mmd(PooledSample.of(first[0], second[0], first[1], second[1]))


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
