"""Gates of a comparison: each checks one measurement of NEW against a limit and states the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from embedship.monitor.state import SignalState
from embedship.serve.compare.questions import QuestionSet
from embedship.serve.compare.report import ComparedSide, CompareMeasurements, CompareReport, GateResult

if TYPE_CHECKING:
    from embedship.serve.compare.rankings import LabelStatistics, MetricComparison, RankingAgreement
    from embedship.serve.compare.report import (
        DriftStates,
        LatencyRatio,
        RequestFailures,
        SpeedRatio,
        VectorParity,
    )


def build_report(
    old: ComparedSide,
    new: ComparedSide,
    questions: QuestionSet,
    results: Sequence[GateResult],
    measured: CompareMeasurements,
) -> CompareReport:
    """Return the report for gate results and the measurements that they are based on."""
    return CompareReport(
        passed=all(gate.passed is not False for gate in results),
        verdict=verdict(results),
        old=old,
        new=new,
        same_model=old.fingerprint == new.fingerprint,
        lines=questions.lines,
        queries=len(questions),
        gates=results,
        measured=measured,
    )


# Minimum cosines that the export requires between int8 vectors and the checkpoint's (Floors). Used for servers, because
# they do not report floors.
COSINE, COSINE_MEAN = 0.97, 0.99
RECALL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareThresholds:
    """Limits of the gates. If a limit is None, the value is reported and not checked.

    Exception: min_recall None means RECALL if OLD and NEW are the same model.
    """

    other_model: bool = False
    min_queries: int = 100
    min_recall: float | None = None
    max_recall_drop: float = 0.02
    max_ndcg_drop: float = 0.02
    min_speed: float | None = None
    max_memory: float | None = None
    max_size: float | None = None
    max_latency: float | None = None
    max_failures: int = 0


class CosineFloor(NamedTuple):
    """Minimum cosines between vectors of the same model.

    `low` applies to the first percentile (for golden texts: to the minimum), `mean` to the mean.
    """

    low: float = COSINE
    mean: float = COSINE_MEAN


def check_measurements(
    measured: CompareMeasurements, distinct: int, same_model: bool, floor: CosineFloor, limits: CompareThresholds
) -> list[GateResult]:
    """Return one result per measurement and per limit. `distinct`: number of distinct queries that both answered."""
    results = [check_queries(distinct, limits)]
    if measured.failures:
        results.append(check_failures(measured.failures, limits))
    if measured.golden:
        results.append(check_golden(measured.golden, floor))
    if measured.vectors:
        results.append(check_vectors(measured.vectors, floor))
    if measured.agreement:
        results.append(check_ranking(measured.agreement, same_model, limits))
    if measured.labels:
        results += check_labels(measured.labels, limits)
    if measured.drift:
        results.append(check_drift(measured.drift))
    if measured.speed:
        results.append(check_speed(measured.speed, limits))
    if measured.latency:
        results.append(check_latency(measured.latency, limits))
    limited = (
        ("ranking", "--min-recall", limits.min_recall, measured.agreement),
        ("speed", "--min-speed", limits.min_speed, measured.speed),
        ("latency", "--max-latency", limits.max_latency, measured.latency),
    )
    return results + [
        _not_measured(name, option) for name, option, limit, value in limited if limit is not None and value is None
    ]


def _not_measured(name: str, option: str) -> GateResult:
    """Return a failed gate: a limit without a measurement is not met."""
    return GateResult(name, False, f"{option} sets a limit, but the value was not measured.")


def _at_least(value: float, limit: float | None) -> bool | None:
    return None if limit is None else value >= limit  # False for NaN


def _at_most(value: float, limit: float | None) -> bool | None:
    return None if limit is None else value <= limit


def check_model(old: ComparedSide, new: ComparedSide, limits: CompareThresholds) -> GateResult:
    if old.fingerprint == new.fingerprint:
        return GateResult("model", True, f"OLD and NEW are the same model, fingerprint {old.fingerprint[:12]}.")
    both = f"NEW is another model ({new.model} {new.fingerprint[:12]}, OLD is {old.model} {old.fingerprint[:12]})"
    if limits.other_model:
        return GateResult("model", True, f"{both}, which --other-model allows: only rankings are compared.")
    return GateResult(
        "model",
        False,
        f"{both}. Vectors of two models cannot be compared, and clients answered by both would store a mixture. Give "
        "--other-model if NEW is meant to replace OLD, with an index of its own.",
    )


def fail_without_index() -> GateResult:
    """Return the failed gate for the case that only OLD has an index."""
    return GateResult("ranking", False, "OLD answers /search and NEW has no index: serve NEW with --index.")


def check_queries(distinct: int, limits: CompareThresholds) -> GateResult:
    enough = distinct >= limits.min_queries
    count = f"{distinct:,} distinct queries; {limits.min_queries:,} are required"
    return GateResult(
        "queries",
        enough,
        f"{count}." if enough else f"{count} to show that quality was kept. Give more, or lower --min-queries.",
        float(distinct),
        float(limits.min_queries),
    )


def check_golden(parity: VectorParity, floor: CosineFloor) -> GateResult:
    """Check NEW's vectors of OLD's golden texts against the checkpoint's vectors stored in OLD."""
    good = parity.minimum >= floor.low and parity.mean >= floor.mean
    cosines = f"cosine min {parity.minimum:.5f} (limit {floor.low:g}), mean {parity.mean:.5f} (limit {floor.mean:g})"
    end = "" if good else " NEW has the fingerprint of the same model but computes other vectors: do not ship it."
    return GateResult(
        "golden texts",
        good,
        f"NEW compared with the checkpoint's vectors of OLD's {parity.texts} golden texts: {cosines}.{end}",
        parity.minimum,
        floor.low,
    )


def check_vectors(parity: VectorParity, floor: CosineFloor) -> GateResult:
    good = parity.low >= floor.low and parity.mean >= floor.mean
    return GateResult(
        "vectors",
        good,
        f"Cosine of NEW's vectors to OLD's, {parity.texts:,} queries: mean {parity.mean:.5f} (limit {floor.mean:g}), "
        f"99% are above {parity.low:.5f} (limit {floor.low:g}), min {parity.minimum:.5f}.",
        parity.mean,
        floor.mean,
    )


def check_ranking(agreement: RankingAgreement, same_model: bool, limits: CompareThresholds) -> GateResult:
    """Check the lower end of the interval, so that too few queries cannot pass."""
    limit = limits.min_recall if limits.min_recall is not None or not same_model else RECALL
    recall = agreement.recall
    required = "no limit for another model" if limit is None else f"limit {limit:g} for the lower end"
    return GateResult(
        "ranking",
        _at_least(recall.lower, limit),
        f"recall@10 of NEW against OLD is {recall.mean:.4f} ({recall.lower:.4f} to {recall.upper:.4f}; {required}), "
        f"{agreement.queries:,} queries: {agreement.what}.",
        recall.lower,
        limit,
    )


def check_labels(labels: LabelStatistics, limits: CompareThresholds) -> list[GateResult]:
    if labels.recall.old == labels.recall.new == 0:
        reason = (
            f"Neither OLD nor NEW found a labelled document in {labels.queries:,} queries: check that the labels use "
            "the document ids of the index."
        )
        return [GateResult("labels", False, reason)]
    metrics = [
        _check_metric("recall@10", labels.recall, labels.queries, limits.max_recall_drop),
        _check_metric("nDCG@10", labels.ndcg, labels.queries, limits.max_ndcg_drop),
    ]
    if labels.queries >= limits.min_queries:
        return metrics
    # Two queries with equal changes have an interval of width zero, which would pass any limit.
    reason = (
        f"{labels.queries:,} labelled {'query' if labels.queries == 1 else 'queries'}; {limits.min_queries:,} are "
        "required to show that quality was kept. Label more, lower --min-queries, or give queries without labels."
    )
    reported = [msgspec.structs.replace(gate, passed=None) for gate in metrics]
    return [GateResult("labels", False, reason, float(labels.queries), float(limits.min_queries)), *reported]


def _check_metric(name: str, metric: MetricComparison, queries: int, max_drop: float) -> GateResult:
    change = metric.change
    good = change.lower >= -max_drop
    end = ""
    if not good:
        end = " It fell." if change.upper < 0 else " The queries cannot rule out a drop: give more of them."
    return GateResult(
        f"{name} by labels",
        good,
        f"{name} by labels, {queries:,} queries: OLD {metric.old:.4f}, NEW {metric.new:.4f}, change {change.mean:+.4f} "
        f"({change.lower:+.4f} to {change.upper:+.4f}; limit -{max_drop:g} for the lower end).{end}",
        change.lower,
        -max_drop,
    )


def check_drift(states: DriftStates) -> GateResult:
    """Check that NEW does not move the queries further from OLD's reference than OLD does.

    Queries that also drift with OLD are not a fault of NEW. The gate fails if NEW's state is WARN and its effect
    exceeds OLD's by more than `floor`.
    """
    effects = (
        f"the mean moved by {states.new_effect:.3f} standard deviations with NEW, {states.old_effect:.3f} with OLD"
    )
    detail = f"{effects} (limit {states.floor:g} more); largest KS distance of a dimension {states.ks_largest:.3f}"
    if SignalState.UNKNOWN in (states.new, states.old):
        return GateResult("drift", None, f"Drift could not be decided: {states.reason}.")
    moved = states.new_effect - states.old_effect
    if states.new is SignalState.WARN and moved > states.floor:
        reason = "NEW's vectors of the queries drift further from OLD's reference than OLD's vectors do"
        return GateResult("drift", False, f"{reason}: {detail}.", moved, states.floor)
    if SignalState.WARN in (states.new, states.old):
        reason = "The queries drift from OLD's reference, but not because of NEW"
    else:
        reason = "NEW's vectors of the queries are like OLD's reference"
    return GateResult("drift", True, f"{reason}: {detail}.", moved, states.floor)


def check_speed(speed: SpeedRatio, limits: CompareThresholds) -> GateResult:
    return GateResult(
        "speed",
        _at_least(speed.ratio, limits.min_speed),
        f"NEW encodes {speed.ratio:.2f} times as many texts per second as OLD ({speed.least:.2f} to {speed.most:.2f} "
        f"in {speed.rounds} rounds{_limit(limits.min_speed)}).",
        speed.ratio,
        limits.min_speed,
    )


def check_latency(latency: LatencyRatio, limits: CompareThresholds) -> GateResult:
    return GateResult(
        "latency",
        _at_most(latency.ratio, limits.max_latency),
        f"Median latency of NEW {latency.new_median * 1e3:.1f} ms (p95 {latency.new_p95 * 1e3:.1f} ms), of OLD "
        f"{latency.old_median * 1e3:.1f} ms (p95 {latency.old_p95 * 1e3:.1f} ms): ratio {latency.ratio:.2f}"
        f"{_limit(limits.max_latency)}.",
        latency.ratio,
        limits.max_latency,
    )


def check_failures(failures: RequestFailures, limits: CompareThresholds) -> GateResult:
    good = failures.new - failures.old <= limits.max_failures
    first = f" First error of NEW: {failures.first}" if failures.first else ""
    return GateResult(
        "failures",
        good,
        f"{failures.new:,} of {failures.requests:,} requests to NEW failed, and {failures.old:,} to OLD (limit: "
        f"{limits.max_failures:,} more than OLD).{first}",
        float(failures.new - failures.old),
        float(limits.max_failures),
    )


def check_sizes(old: ComparedSide, new: ComparedSide, limits: CompareThresholds) -> list[GateResult]:
    """Check the size of the files and the peak memory, if both were measured or have a limit."""
    pairs = (
        ("size", "Size of the files", old.bytes, new.bytes, limits.max_size),
        ("memory", "Peak memory of a process", old.memory_bytes, new.memory_bytes, limits.max_memory),
    )
    known = [
        _check_size(name, figure, a, b, limit) for name, figure, a, b, limit in pairs if a is not None and b is not None
    ]
    unknown = [name for name, _, a, b, limit in pairs if limit is not None and (a is None or b is None)]
    return known + [_not_measured(name, f"--max-{name}") for name in unknown]


def _check_size(name: str, figure: str, old: int, new: int, limit: float | None) -> GateResult:
    ratio = new / old
    return GateResult(
        name,
        _at_most(ratio, limit),
        f"{figure}: NEW {new / 1e6:,.0f} MB, OLD {old / 1e6:,.0f} MB, ratio {ratio:.2f}{_limit(limit)}.",
        ratio,
        limit,
    )


def _limit(limit: float | None) -> str:
    return "" if limit is None else f"; limit {limit:g}"


def verdict(results: Sequence[GateResult]) -> list[str]:
    """Return the decision, followed by the reasons of the failed gates or the names of the passed ones."""
    failed = [gate for gate in results if gate.passed is False]
    if not failed:
        names = [gate.name for gate in results if gate.passed]
        uncompared = [] if "ranking" in names else ["Search results were not compared."]
        return ["NEW may replace OLD.", f"Passed: {', '.join(names)}.", *uncompared]
    return ["NEW may not replace OLD.", *(gate.reason for gate in failed)]
