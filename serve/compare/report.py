"""What a comparison found: for a terminal, for a page, and as JSON. None stands for what was not measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from embedship.monitor.state import SignalState
from embedship.serve.compare.rankings import Floats, LabelStatistics, RankingAgreement


class GateResult(msgspec.Struct, frozen=True):
    """passed None: shown, and decides nothing. `value` and `limit` where it is a number that decides."""

    name: str
    passed: bool | None
    reason: str
    value: float | None = None
    limit: float | None = None


class ComparedSide(msgspec.Struct, frozen=True):
    """One of the two. bytes: of the files that its variant reads; memory_bytes: most of a process that encoded."""

    source: str
    model: str
    fingerprint: str
    variant: str
    precision: str
    dimension: int
    bytes: int | None = None
    memory_bytes: int | None = None


class VectorParity(msgspec.Struct, frozen=True):
    """Cosine of NEW's vectors to OLD's of the same texts; `low` is the first percentile of them."""

    texts: int
    minimum: float
    low: float
    mean: float


class DriftStates(msgspec.Struct, frozen=True):
    """OLD's and NEW's vectors of the same queries, each against OLD's drift reference.

    effects are shifts of the mean in standard deviations, of which `floor` is what matters; ks_largest is the largest
    Kolmogorov-Smirnov distance of any dimension between NEW's vectors and OLD's.
    """

    old: SignalState
    new: SignalState
    old_effect: float
    new_effect: float
    floor: float
    ks_largest: float
    reason: str


class SpeedRatio(msgspec.Struct, frozen=True):
    """NEW's texts a second over OLD's: median, least and most of the rounds, in which they took turns."""

    ratio: float
    least: float
    most: float
    rounds: int


class LatencyRatio(msgspec.Struct, frozen=True):
    """Seconds of a request, asked one at a time of both in turn; ratio is that of the medians, NEW over OLD."""

    old_median: float
    new_median: float
    old_p95: float
    new_p95: float
    ratio: float


class RequestFailures(msgspec.Struct, frozen=True):
    """Requests that got no answer, of so many asked of each; `first` is what NEW said to the first of them."""

    requests: int
    old: int
    new: int
    first: str = ""


class CompareMeasurements(msgspec.Struct, frozen=True, kw_only=True):
    golden: VectorParity | None = None
    vectors: VectorParity | None = None
    agreement: RankingAgreement | None = None
    labels: LabelStatistics | None = None
    drift: DriftStates | None = None
    speed: SpeedRatio | None = None
    latency: LatencyRatio | None = None
    failures: RequestFailures | None = None


class CompareReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `embedship compare --json` prints. `lines` were given, `queries` of them are different from each other."""

    passed: bool
    verdict: list[str]
    old: ComparedSide
    new: ComparedSide
    same_model: bool
    lines: int
    queries: int
    gates: Sequence[GateResult]
    measured: CompareMeasurements


class PerQueryValues(NamedTuple):
    """What figures show: cosine of NEW's vector to OLD's and recall@10 of NEW against OLD, (n,) a query, or None."""

    cosines: Floats | None = None
    shares: Floats | None = None


class ComparisonResult(NamedTuple):
    report: CompareReport
    evidence: PerQueryValues
