"""Report of a comparison, for the terminal, the HTML page and JSON. None means "not measured"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from embedship.monitor.state import SignalState
from embedship.serve.compare.rankings import Floats, LabelStatistics, RankingAgreement


class GateResult(msgspec.Struct, frozen=True):
    """Result of one gate. passed None: only reported. `value` and `limit` are the compared numbers, if any."""

    name: str
    passed: bool | None
    reason: str
    value: float | None = None
    limit: float | None = None


class ComparedSide(msgspec.Struct, frozen=True):
    """OLD or NEW. bytes: size of the files of its variant; memory_bytes: peak memory of a process that encoded."""

    source: str
    model: str
    fingerprint: str
    variant: str
    precision: str
    dimension: int
    bytes: int | None = None
    memory_bytes: int | None = None


class VectorParity(msgspec.Struct, frozen=True):
    """Cosines between NEW's and OLD's vectors of the same texts. `low` is their first percentile."""

    texts: int
    minimum: float
    low: float
    mean: float


class DriftStates(msgspec.Struct, frozen=True):
    """Drift of OLD's and of NEW's vectors of the same queries, each tested against OLD's drift reference.

    The effects are shifts of the mean in standard deviations; `floor` is the smallest effect that matters. `ks_largest`
    is the largest Kolmogorov-Smirnov distance between NEW's and OLD's vectors over all dimensions.
    """

    old: SignalState
    new: SignalState
    old_effect: float
    new_effect: float
    floor: float
    ks_largest: float
    reason: str


class SpeedRatio(msgspec.Struct, frozen=True):
    """NEW's texts per second divided by OLD's: median, minimum and maximum over the rounds, measured alternately."""

    ratio: float
    least: float
    most: float
    rounds: int


class LatencyRatio(msgspec.Struct, frozen=True):
    """Seconds per request, sent one at a time and alternately to both. `ratio` is NEW's median divided by OLD's."""

    old_median: float
    new_median: float
    old_p95: float
    new_p95: float
    ratio: float


class RequestFailures(msgspec.Struct, frozen=True):
    """Number of failed requests, of `requests` sent to each server. `first` is the first error message of NEW."""

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
    """Output of `embedship compare --json`. `lines`: lines of the query file; `queries`: distinct texts among them."""

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
    """Values per query for the figures, (n,) each or None: cosine of NEW's vector to OLD's; recall@10 of NEW."""

    cosines: Floats | None = None
    shares: Floats | None = None


class ComparisonResult(NamedTuple):
    report: CompareReport
    per_query: PerQueryValues
