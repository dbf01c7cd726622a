"""Drift report: the result of a drift test in words, for the terminal, the HTML page and JSON."""

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
from embedship.monitor.recall.history import RecallHistory, queries_needed
from embedship.monitor.state import SignalState
from embedship.serve.offline.query_log import DriftLog


class DriftRequest(NamedTuple):
    """Inputs of one drift test. `false_alarms` None means the rate that the reference was fitted for."""

    reference: Path
    current: Path
    false_alarms: FalseAlarms | None
    every_seconds: float
    recall_baseline: float | None = None


class DriftCommandReport(msgspec.Struct, frozen=True, kw_only=True):
    """Output of `embedship drift --json`. `since` is ISO 8601, or None without drift or without timestamps."""

    state: SignalState
    verdict: list[str]
    reference: str
    current: str
    fingerprint: str
    bound: bool  # whether the log names the model that encoded it, which is then the reference's model
    variant: str | None
    false_alarms: str
    every_seconds: float
    since: str | None
    comparison: DriftComparison
    recall: RecallHistory | None

    @classmethod
    def from_comparison(
        cls,
        comparison: DriftComparison,
        recall: RecallHistory | None,
        reference: DriftReference,
        log: DriftLog,
        request: DriftRequest,
    ) -> DriftCommandReport:
        fitted_for = reference.promise.false_alarms if reference.promise else None
        return cls(
            state=state(comparison, recall),
            verdict=[*verdict(comparison), *_recall(recall, log, request.recall_baseline)],
            reference=str(request.reference),
            current=str(request.current),
            fingerprint=reference.fingerprint,
            bound=log.bound,
            variant=log.variant,
            false_alarms=str(request.false_alarms or fitted_for or DEFAULT),
            every_seconds=request.every_seconds,
            since=iso(comparison.since),
            comparison=comparison,
            recall=recall,
        )


class TestLine(msgspec.Struct, frozen=True):
    """One test: its value, the limit, and whether the value exceeds it (None: the value is only reported)."""

    test: str
    found: str
    limit: str
    fired: bool | None


def state(comparison: DriftComparison, recall: RecallHistory | None) -> SignalState:
    """Return WARN if recall has fallen, otherwise the state of drift (unknown drift is not `ok`)."""
    return SignalState.WARN if recall and recall.alarms else comparison.state


def verdict(comparison: DriftComparison) -> list[str]:
    """Return the sentences that state the result for drift."""
    report = comparison.report
    match comparison.state:
        case SignalState.UNKNOWN:
            sentences = [f"Drift could not be decided: {report.reason}."]
        case SignalState.OK:
            sentences = [
                f"No drift: the {report.samples:,} queries are like those of the reference. They have the statistical "
                f"weight of {report.effective:,.0f} independent queries.",
            ]
        case SignalState.WARN:
            sentences = [_drift_sentence(comparison)]
    if comparison.since:
        sentences.append(f"The drift is first seen in queries from {when(comparison.since)} on.")
    if comparison.state is SignalState.WARN and (far := comparison.evidence.far):
        sentences.append(
            f"{far.now:.1%} of the queries belong to no topic of the reference; without drift {far.then:.1%} do."
        )
    return sentences


def _drift_sentence(comparison: DriftComparison) -> str:
    report = comparison.report
    if report.state is not SignalState.WARN:
        warning = sum(block.state is SignalState.WARN for block in comparison.blocks)
        return f"The queries drifted in {warning} of {len(comparison.blocks)} time blocks, but not overall."
    if report.rule is DriftRule.TEN_PERCENT:
        return (
            f"The queries have drifted by the ten percent rule: {report.dimensions_ratio:.1%} of the dimensions differ "
            f"at p < {ALPHA} (limit {DIMENSIONS_LIMIT:.0%})."
        )
    return (
        f"The queries have drifted: their mean has moved by {report.effect:.2f} standard deviations. The square "
        f"of this shift is {report.score:,.1f} times its value without drift (limit {report.threshold:.2f})."
    )


def _recall(recall: RecallHistory | None, log: DriftLog, baseline: float | None) -> list[str]:
    if log.recalls is None:
        return []
    if recall is None:
        judged = int(np.count_nonzero(~np.isnan(log.recalls)))
        return [f"Recall was not tested: {judged} queries were judged, {queries_needed(baseline)} are needed."]
    last = recall.stretches[-1]
    sentence = (
        f"recall@10 is now {last.mean:.3f} ({last.lower:.3f} to {last.upper:.3f}), baseline {recall.baseline:.3f}"
    )
    if recall.alarms:
        first = recall.alarms[0]
        return [f"Recall has fallen, first seen {when(first) if log.timed else f'at query {first:,.0f}'}: {sentence}."]
    return [f"Recall has not fallen: {sentence}."]


def tests(comparison: DriftComparison) -> list[TestLine]:
    """Return one line per test. The first two tests decide by default, and both must exceed their limits."""
    r = comparison.report
    lines = [
        TestLine("mean shift, relative to no drift", f"{r.score:.2f}", f"{r.threshold:.2f}", r.score > r.threshold),
        TestLine("effect, standard deviations", f"{r.effect:.3f}", f"{r.effect_floor:.3f}", r.effect > r.effect_floor),
        TestLine(
            f"KS, dimensions with p < {ALPHA} (10% rule)",
            f"{r.dimensions_ratio:.1%}",
            f"{DIMENSIONS_LIMIT:.0%}",
            r.ten_percent,
        ),
        TestLine("KS, dimensions after Bonferroni", f"{r.bonferroni_ratio:.1%}", "0%", r.bonferroni_ratio > 0),
        TestLine("KS, dimensions after Benjamini-Hochberg", f"{r.discovery_ratio:.1%}", "0%", r.discovery_ratio > 0),
        TestLine(
            "KS, median distance (limit: without drift)", f"{r.statistic_median:.3f}", f"{r.statistic_noise:.3f}", None
        ),
    ]
    if comparison.mmd:
        p = comparison.mmd.pvalue
        lines.append(TestLine("MMD, p value, whole sessions permuted", f"{p:.3f}", f"{ALPHA}", p < ALPHA))
    return lines


def blocks_missing(comparison: DriftComparison) -> str:
    """Return the reason why there are no time blocks."""
    if comparison.report.state is SignalState.UNKNOWN:
        return "No test could be computed."
    return f"Time blocks need a timestamp on each query, and at least {2 * BLOCK_QUERIES} queries."


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
