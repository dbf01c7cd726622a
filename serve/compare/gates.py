"""Gates: what NEW must hold to, each with its reason in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from embedship.monitor.state import SignalState
from embedship.serve.compare import gates
from embedship.serve.compare.questions import QuestionSet
from embedship.serve.compare.report import ComparedSide, CompareMeasurements, CompareReport, GateResult

if TYPE_CHECKING:
    from embedship.serve.compare.rankings import LabelStatistics, MetricComparison, RankingAgreement
    from embedship.serve.compare.report import (
        ComparedSide,
        CompareMeasurements,
        DriftStates,
        LatencyRatio,
        RequestFailures,
        SpeedRatio,
        VectorParity,
    )


def of(
    old: ComparedSide,
    new: ComparedSide,
    questions: QuestionSet,
    made: Sequence[GateResult],
    measured: CompareMeasurements,
) -> CompareReport:
    """The report of gates that were made and of what they judged."""
    return CompareReport(
        passed=all(gate.passed is not False for gate in made),
        verdict=gates.verdict(made),
        old=old,
        new=new,
        same_model=old.fingerprint == new.fingerprint,
        lines=questions.lines,
        queries=len(questions),
        gates=made,
        measured=measured,
    )


# The least that int8 must hold to its checkpoint at export (Floors), for servers, which tell no floors of their own.
COSINE, COSINE_MEAN = 0.97, 0.99
RECALL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareThresholds:
    """None: measured and shown, but not demanded. min_recall None: RECALL for one model, nothing for two."""

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
    """What cosines of one model must hold: the first percentile (of golden texts the least), and the mean."""

    low: float = COSINE
    mean: float = COSINE_MEAN


def judged(
    found: CompareMeasurements, distinct: int, same_model: bool, floor: CosineFloor, limits: CompareThresholds
) -> list[GateResult]:
    """A gate for each thing that was measured or has a limit. `distinct` queries were answered by both."""
    made = [queries(distinct, limits)]
    if found.failures:
        made.append(failures(found.failures, limits))
    if found.golden:
        made.append(golden(found.golden, floor))
    if found.vectors:
        made.append(vectors(found.vectors, floor))
    if found.agreement:
        made.append(agreement(found.agreement, same_model, limits))
    if found.labels:
        made += labels(found.labels, limits)
    if found.drift:
        made.append(drift(found.drift))
    if found.speed:
        made.append(speed(found.speed, limits))
    if found.latency:
        made.append(latency(found.latency, limits))
    demanded = (
        ("ranking", "--min-recall", limits.min_recall, found.agreement),
        ("speed", "--min-speed", limits.min_speed, found.speed),
        ("latency", "--max-latency", limits.max_latency, found.latency),
    )
    return made + [
        _unmeasured(name, option) for name, option, limit, value in demanded if limit is not None and value is None
    ]


def _unmeasured(name: str, option: str) -> GateResult:
    """A limit that nothing was held against is not met."""
    return GateResult(name, False, f"{option} demands a limit, and nothing was measured that could be held against it.")


def _at_least(value: float, limit: float | None) -> bool | None:
    return None if limit is None else value >= limit  # a NaN is at least nothing


def _at_most(value: float, limit: float | None) -> bool | None:
    return None if limit is None else value <= limit


def model(old: ComparedSide, new: ComparedSide, limits: CompareThresholds) -> GateResult:
    if old.fingerprint == new.fingerprint:
        return GateResult("model", True, f"Both are one model, fingerprint {old.fingerprint[:12]}.")
    both = f"NEW is another model ({new.model} {new.fingerprint[:12]}, OLD is {old.model} {old.fingerprint[:12]})"
    if limits.other_model:
        return GateResult("model", True, f"{both}, as --other-model allows: only rankings are compared.")
    return GateResult(
        "model",
        False,
        f"{both}: vectors of one mean nothing to the other, and whoever is answered by both in turn stores a mixture. "
        "Give --other-model if it is meant to replace it, with an index of its own.",
    )


def unsearched() -> GateResult:
    """For servers of which only OLD has an index."""
    return GateResult("ranking", False, "OLD answers /search and NEW has no index: serve NEW with --index.")


def queries(distinct: int, limits: CompareThresholds) -> GateResult:
    enough = distinct >= limits.min_queries
    said = f"{distinct:,} distinct queries; {limits.min_queries:,} are demanded"
    return GateResult(
        "queries",
        enough,
        f"{said}." if enough else f"{said}: too few to show that nothing was lost. Give more, or lower --min-queries.",
        float(distinct),
        float(limits.min_queries),
    )


def golden(found: VectorParity, floor: CosineFloor) -> GateResult:
    """NEW's vectors of OLD's golden texts against those that OLD recorded of the checkpoint."""
    good = found.minimum >= floor.low and found.mean >= floor.mean
    cosines = f"cosine min {found.minimum:.5f} (limit {floor.low:g}), mean {found.mean:.5f} (limit {floor.mean:g})"
    end = "" if good else " It names itself the same model, and is not: do not ship it."
    return GateResult(
        "golden texts",
        good,
        f"NEW against the checkpoint's vectors that OLD holds of {found.texts} golden texts: {cosines}.{end}",
        found.minimum,
        floor.low,
    )


def vectors(found: VectorParity, floor: CosineFloor) -> GateResult:
    good = found.low >= floor.low and found.mean >= floor.mean
    return GateResult(
        "vectors",
        good,
        f"Cosine of NEW's vectors to OLD's, {found.texts:,} queries: mean {found.mean:.5f} (limit {floor.mean:g}), 99% "
        f"are above {found.low:.5f} (limit {floor.low:g}), min {found.minimum:.5f}.",
        found.mean,
        floor.mean,
    )


def agreement(found: RankingAgreement, same_model: bool, limits: CompareThresholds) -> GateResult:
    """Its lower end decides: what the queries do not show is not assumed."""
    limit = limits.min_recall if limits.min_recall is not None or not same_model else RECALL
    recall = found.recall
    demanded = "not demanded of another model" if limit is None else f"limit {limit:g}, by its lower end"
    return GateResult(
        "ranking",
        _at_least(recall.lower, limit),
        f"recall@10 of NEW against OLD is {recall.mean:.4f} ({recall.lower:.4f} to {recall.upper:.4f}; {demanded}), "
        f"{found.queries:,} queries: {found.what}.",
        recall.lower,
        limit,
    )


def labels(found: LabelStatistics, limits: CompareThresholds) -> list[GateResult]:
    if found.recall.old == found.recall.new == 0:
        said = (
            f"Neither found a labelled document, {found.queries:,} queries: do labels and index name documents alike?"
        )
        return [GateResult("labels", False, said)]
    qualities = [
        _quality("recall@10", found.recall, found.queries, limits.max_recall_drop),
        _quality("nDCG@10", found.ndcg, found.queries, limits.max_ndcg_drop),
    ]
    if found.queries >= limits.min_queries:
        return qualities
    # Two queries that fare alike have an interval without width: it would show anything.
    said = (
        f"{found.queries:,} labelled {'query' if found.queries == 1 else 'queries'}; {limits.min_queries:,} are "
        "demanded: too few to show that nothing was lost. Label more, lower --min-queries, or give queries without "
        "labels."
    )
    shown = [msgspec.structs.replace(gate, passed=None) for gate in qualities]
    return [GateResult("labels", False, said, float(found.queries), float(limits.min_queries)), *shown]


def _quality(name: str, found: MetricComparison, queries: int, most: float) -> GateResult:
    change = found.change
    good = change.lower >= -most
    end = ""
    if not good:
        end = " It fell." if change.upper < 0 else " The queries do not show that it did not: give more of them."
    return GateResult(
        f"{name} by labels",
        good,
        f"{name} by labels, {queries:,} queries: OLD {found.old:.4f}, NEW {found.new:.4f}, change {change.mean:+.4f} "
        f"({change.lower:+.4f} to {change.upper:+.4f}; at most -{most:g}, by its lower end).{end}",
        change.lower,
        -most,
    )


def drift(found: DriftStates) -> GateResult:
    """Queries that drift by themselves are no fault of NEW: it fails where it moves them further than matters."""
    effects = f"the mean moved by {found.new_effect:.3f} standard deviations with NEW, {found.old_effect:.3f} with OLD"
    detail = f"{effects} ({found.floor:g} more would matter); largest KS distance of a dimension {found.ks_largest:.3f}"
    if SignalState.UNKNOWN in (found.new, found.old):
        return GateResult("drift", None, f"Drift was not decided: {found.reason}.")
    moved = found.new_effect - found.old_effect
    if found.new is SignalState.WARN and moved > found.floor:
        said = "NEW's vectors of the queries drift from OLD's reference, further than OLD's"
        return GateResult("drift", False, f"{said}: {detail}.", moved, found.floor)
    drifted = "The queries drift from OLD's reference by themselves, and NEW moves them no further"
    said = (
        drifted
        if SignalState.WARN in (found.new, found.old)
        else "NEW's vectors of the queries are like OLD's reference"
    )
    return GateResult("drift", True, f"{said}: {detail}.", moved, found.floor)


def speed(found: SpeedRatio, limits: CompareThresholds) -> GateResult:
    return GateResult(
        "speed",
        _at_least(found.ratio, limits.min_speed),
        f"NEW encodes {found.ratio:.2f} times as many texts a second as OLD ({found.least:.2f} to {found.most:.2f} in "
        f"{found.rounds} rounds{_limit(limits.min_speed)}).",
        found.ratio,
        limits.min_speed,
    )


def latency(found: LatencyRatio, limits: CompareThresholds) -> GateResult:
    return GateResult(
        "latency",
        _at_most(found.ratio, limits.max_latency),
        f"A request takes NEW {found.new_median * 1e3:.1f} ms (p95 {found.new_p95 * 1e3:.1f}), OLD "
        f"{found.old_median * 1e3:.1f} ms (p95 {found.old_p95 * 1e3:.1f}): {found.ratio:.2f} times"
        f"{_limit(limits.max_latency)}.",
        found.ratio,
        limits.max_latency,
    )


def failures(found: RequestFailures, limits: CompareThresholds) -> GateResult:
    good = found.new - found.old <= limits.max_failures
    first = f" The first: {found.first}" if found.first else ""
    return GateResult(
        "failures",
        good,
        f"Of {found.requests:,} requests NEW failed {found.new:,}, OLD {found.old:,} (at most {limits.max_failures:,} "
        f"more).{first}",
        float(found.new - found.old),
        float(limits.max_failures),
    )


def sizes(old: ComparedSide, new: ComparedSide, limits: CompareThresholds) -> list[GateResult]:
    """Files and memory, where both are known or a limit demands that they are."""
    pairs = (
        ("size", "files take", old.bytes, new.bytes, limits.max_size),
        ("memory", "process takes at most", old.memory_bytes, new.memory_bytes, limits.max_memory),
    )
    known = [_size(name, what, a, b, limit) for name, what, a, b, limit in pairs if a is not None and b is not None]
    unknown = [name for name, _, a, b, limit in pairs if limit is not None and (a is None or b is None)]
    return known + [_unmeasured(name, f"--max-{name}") for name in unknown]


def _size(name: str, what: str, old: int, new: int, limit: float | None) -> GateResult:
    ratio = new / old
    return GateResult(
        name,
        _at_most(ratio, limit),
        f"NEW's {what} {new / 1e6:,.0f} MB, OLD's {old / 1e6:,.0f} MB: {ratio:.2f} times{_limit(limit)}.",
        ratio,
        limit,
    )


def _limit(limit: float | None) -> str:
    return "" if limit is None else f"; limit {limit:g}"


def verdict(gates: Sequence[GateResult]) -> list[str]:
    """What decided, first of all what failed."""
    failed = [gate for gate in gates if gate.passed is False]
    if not failed:
        names = [gate.name for gate in gates if gate.passed]
        unseen = [] if "ranking" in names else ["What it finds was not compared."]
        return ["NEW may take OLD's place.", f"It passed {', '.join(names)}.", *unseen]
    return ["NEW may not take OLD's place.", *(gate.reason for gate in failed)]
