"""Ranking metrics: agreement of two rankings, and their quality by labels. Intervals are over queries."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from embedship.monitor.recall.score import score
from embedship.monitor.statistics import recall_interval

K = 10
CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Rankings = Sequence[Sequence[str]]  # one list of document ids per query, best first


class MeanEstimate(msgspec.Struct, frozen=True):
    """A mean over queries and its 95% interval."""

    mean: float
    lower: float
    upper: float


class RankingAgreement(msgspec.Struct, frozen=True):
    """recall@10 of NEW's hits, with OLD's hits as the relevant ones. `what` describes how each of them searched."""

    queries: int
    recall: MeanEstimate
    what: str


class MetricComparison(msgspec.Struct, frozen=True):
    """A metric by labels: mean of OLD, mean of NEW, and mean of the paired differences per query."""

    old: float
    new: float
    change: MeanEstimate


class LabelStatistics(msgspec.Struct, frozen=True):
    """Metrics over the labelled queries."""

    queries: int
    recall: MetricComparison
    ndcg: MetricComparison


class JudgedRankings(NamedTuple):
    """Metrics per labelled query, (n,) float64 each."""

    recall: Floats
    ndcg: Floats


def overlap_ratios(old: Rankings, new: Rankings) -> Floats:
    """Return, per query, the share of OLD's first K hits among NEW's first K, (n,); NaN if OLD found nothing."""
    pairs = [(set(before[:K]), set(after[:K])) for before, after in zip(old, new, strict=True)]
    return np.array([len(before & after) / len(before) if before else np.nan for before, after in pairs])


def measure_agreement(shares: Floats, name: str) -> RankingAgreement | None:
    """Summarise overlap ratios; None if OLD found nothing for any query."""
    finite = shares[np.isfinite(shares)]
    if not len(finite):
        return None
    interval = recall_interval(finite, K, CONFIDENCE)
    return RankingAgreement(len(finite), MeanEstimate(float(finite.mean()), interval.lower, interval.upper), name)


def measure_labels(old: Rankings, new: Rankings, relevant: Sequence[Set[str]]) -> LabelStatistics | None:
    """Score both rankings with the same labels; None if no query has labels."""
    labelled = [i for i, documents in enumerate(relevant) if documents]
    if not labelled:
        return None
    before, after = (_score([ranked[i] for i in labelled], [relevant[i] for i in labelled]) for ranked in (old, new))
    return LabelStatistics(len(labelled), _compare(before.recall, after.recall), _compare(before.ndcg, after.ndcg))


def _score(ranked: Rankings, relevant: Sequence[Set[str]]) -> JudgedRankings:
    scores = [score(hits, documents, K) for hits, documents in zip(ranked, relevant, strict=True)]
    return JudgedRankings(np.array([s.found / s.expected for s in scores]), np.array([s.ndcg for s in scores]))


def _compare(old: Floats, new: Floats) -> MetricComparison:
    return MetricComparison(float(old.mean()), float(new.mean()), paired_difference(old, new))


def paired_difference(old: Floats, new: Floats) -> MeanEstimate:
    """Return the mean of new - old over the same n queries, with Student's t interval at n - 1 degrees of freedom.

    For n = 1 the interval is the whole range, -1 to 1.
    """
    change = new - old
    mean, n = float(change.mean()), len(change)
    if n < 2:
        return MeanEstimate(mean, -1.0, 1.0)
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * float(change.std(ddof=1)) / n**0.5
    return MeanEstimate(mean, mean - half, mean + half)
