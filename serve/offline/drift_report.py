"""What a drift test found, in words: for a terminal, for a page, and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from embedship.monitor.drift.detector import ALPHA, DIMENSIONS_LIMIT, DriftRule
from embedship.monitor.drift.false_alarms import DEFAULT, FalseAlarms
from embedship.monitor.drift.offline import BLOCK_QUERIES, DriftComparison
from embedship.monitor.drift.reference import DriftReference
from embedship.monitor.recall.history import RecallHistory, needed
from embedship.monitor.state import SignalState
from embedship.serve.offline.query_log import DriftLog


class DriftRequest(NamedTuple):
    """false_alarms None: those that the reference was fitted for."""

    reference: Path
    current: Path
    false_alarms: FalseAlarms | None
    every_seconds: float
    recall_baseline: float | None = None


class DriftCommandReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `embedship drift --json` prints. `since` is ISO 8601, None if nothing began or no times were given."""

    state: SignalState
    verdict: list[str]
    reference: str
    current: str
    fingerprint: str
    bound: bool  # the log says which model encoded it, and it is the reference's
    variant: str | None
    false_alarms: str
    every_seconds: float
    since: str | None
    comparison: DriftComparison
    recall: RecallHistory | None

    @classmethod
    def of(
        cls,
        comparison: DriftComparison,
        recall: RecallHistory | None,
        reference: DriftReference,
        log: DriftLog,
        asked: DriftRequest,
    ) -> DriftCommandReport:
        promise = reference.promise.false_alarms if reference.promise else None
        return cls(
            state=state(comparison, recall),
            verdict=[*verdict(comparison), *_recall(recall, log, asked.recall_baseline)],
            reference=str(asked.reference),
            current=str(asked.current),
            fingerprint=reference.fingerprint,
            bound=log.bound,
            variant=log.variant,
            false_alarms=str(asked.false_alarms or promise or DEFAULT),
            every_seconds=asked.every_seconds,
            since=iso(comparison.since),
            comparison=comparison,
            recall=recall,
        )


class TestLine(msgspec.Struct, frozen=True):
    """One test: what it found, what it must exceed to count, and whether it does (None: it is only shown)."""

    test: str
    found: str
    limit: str
    fired: bool | None


def state(comparison: DriftComparison, recall: RecallHistory | None) -> SignalState:
    """Drift decides, and so does a fall of recall; not knowing about drift is no `ok`."""
    return SignalState.WARN if recall and recall.alarms else comparison.state


def verdict(comparison: DriftComparison) -> list[str]:
    report = comparison.report
    match comparison.state:
        case SignalState.UNKNOWN:
            found = [f"Drift could not be decided: {report.reason}."]
        case SignalState.OK:
            found = [
                f"No drift: {report.samples:,} queries, worth {report.effective:,.0f} independent ones, are like those "
                "of the reference.",
            ]
        case SignalState.WARN:
            found = [_drifted(comparison)]
    if comparison.since:
        found.append(f"It is first seen in the queries from {when(comparison.since)} on.")
    if comparison.state is SignalState.WARN and (far := comparison.evidence.far):
        found.append(
            f"{far.now:.1%} of the queries belong to no topic of the reference; without drift {far.then:.1%} do."
        )
    return found


def _drifted(comparison: DriftComparison) -> str:
    report = comparison.report
    if report.state is not SignalState.WARN:
        warning = sum(block.state is SignalState.WARN for block in comparison.blocks)
        return f"The queries drifted in {warning} of {len(comparison.blocks)} stretches of time, not over all."
    if report.rule is DriftRule.TEN_PERCENT:
        return (
            f"Drift, by the ten percent rule: {report.dimensions_ratio:.1%} of the dimensions differ at p < {ALPHA}, "
            f"limit {DIMENSIONS_LIMIT:.0%}."
        )
    return (
        f"The queries have drifted: their mean has moved by {report.effect:.2f} standard deviations, "
        f"{report.score:,.1f} times what chance explains (limit {report.threshold:.2f})."
    )


def _recall(recall: RecallHistory | None, log: DriftLog, baseline: float | None) -> list[str]:
    if log.recalls is None:
        return []
    if recall is None:
        judged = int(np.count_nonzero(~np.isnan(log.recalls)))
        return [f"Recall was not followed: {judged} queries were judged, and {needed(baseline)} are needed."]
    last = recall.stretches[-1]
    now = f"recall@10 is {last.mean:.3f} ({last.lower:.3f} to {last.upper:.3f}), baseline {recall.baseline:.3f}"
    if recall.alarms:
        first = recall.alarms[0]
        return [f"Recall has fallen, first seen {when(first) if log.timed else f'at query {first:,.0f}'}: {now} now."]
    return [f"Recall has not fallen: {now}."]


def tests(comparison: DriftComparison) -> list[TestLine]:
    """Every test that was made; the first two decide by default, and both must fire."""
    r = comparison.report
    lines = [
        TestLine("mean shift, times that of no drift", f"{r.score:.2f}", f"{r.threshold:.2f}", r.score > r.threshold),
        TestLine("effect, standard deviations", f"{r.effect:.3f}", f"{r.effect_floor:.3f}", r.effect > r.effect_floor),
        TestLine(
            f"KS, dimensions at p < {ALPHA} (10% rule)",
            f"{r.dimensions_ratio:.1%}",
            f"{DIMENSIONS_LIMIT:.0%}",
            r.ten_percent,
        ),
        TestLine("KS, dimensions left by Bonferroni", f"{r.bonferroni_ratio:.1%}", "0%", r.bonferroni_ratio > 0),
        TestLine("KS, dimensions left by Benjamini-Hochberg", f"{r.discovery_ratio:.1%}", "0%", r.discovery_ratio > 0),
        TestLine(
            "KS, median distance (beside: no drift)", f"{r.statistic_median:.3f}", f"{r.statistic_noise:.3f}", None
        ),
    ]
    if comparison.mmd:
        p = comparison.mmd.pvalue
        lines.append(TestLine("MMD, whole sessions permuted, p", f"{p:.3f}", f"{ALPHA}", p < ALPHA))
    return lines


def blocks_missing(comparison: DriftComparison) -> str:
    """Why there are no time blocks."""
    if comparison.report.state is SignalState.UNKNOWN:
        return "Nothing could be tested."
    return f"It needs a timestamp on each query, and {2 * BLOCK_QUERIES} queries."


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
