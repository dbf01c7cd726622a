"""How alike are two rankings, and how good is each by labels? Pure; the query is the unit of every interval."""

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
Rankings = Sequence[Sequence[str]]  # a list of ids a query, best first


class MeanEstimate(msgspec.Struct, frozen=True):
    """A mean over queries and its 95% interval."""

    mean: float
    lower: float
    upper: float


class RankingAgreement(msgspec.Struct, frozen=True):
    """recall@10 of NEW's hits, those of OLD being right; `what` says how either searched."""

    queries: int
    recall: MeanEstimate
    what: str


class MetricComparison(msgspec.Struct, frozen=True):
    """A metric by labels: OLD's mean, NEW's, and the mean of their differences, query by query."""

    old: float
    new: float
    change: MeanEstimate


class LabelStatistics(msgspec.Struct, frozen=True):
    queries: int
    recall: MetricComparison
    ndcg: MetricComparison


class JudgedRankings(NamedTuple):
    """(n,) each."""

    recall: Floats
    ndcg: Floats


def overlaps(old: Rankings, new: Rankings) -> Floats:
    """Share of OLD's first K that are among NEW's first K, (n,); NaN where OLD found nothing."""
    pairs = [(set(then[:K]), set(now[:K])) for then, now in zip(old, new, strict=True)]
    return np.array([len(then & now) / len(then) if then else np.nan for then, now in pairs])


def agreement(shares: Floats, what: str) -> RankingAgreement | None:
    """None where OLD found nothing at all."""
    real = shares[np.isfinite(shares)]
    if not len(real):
        return None
    interval = recall_interval(real, K, CONFIDENCE)
    return RankingAgreement(len(real), MeanEstimate(float(real.mean()), interval.lower, interval.upper), what)


def labels(old: Rankings, new: Rankings, relevant: Sequence[Set[str]]) -> LabelStatistics | None:
    """Both rankings by the same labels; None where no query has any."""
    places = [place for place, wanted in enumerate(relevant) if wanted]
    if not places:
        return None
    then, now = (_judged([ranked[p] for p in places], [relevant[p] for p in places]) for ranked in (old, new))
    return LabelStatistics(len(places), _quality(then.recall, now.recall), _quality(then.ndcg, now.ndcg))


def _judged(ranked: Rankings, relevant: Sequence[Set[str]]) -> JudgedRankings:
    scores = [score(hits, wanted, K) for hits, wanted in zip(ranked, relevant, strict=True)]
    return JudgedRankings(np.array([s.found / s.expected for s in scores]), np.array([s.ndcg for s in scores]))


def _quality(old: Floats, new: Floats) -> MetricComparison:
    return MetricComparison(float(old.mean()), float(new.mean()), paired(old, new))


def paired(old: Floats, new: Floats) -> MeanEstimate:
    """Mean of new - old over the same n queries, with Student's t interval at n - 1 degrees; n = 1 says nothing."""
    change = new - old
    mean, n = float(change.mean()), len(change)
    if n < 2:
        return MeanEstimate(mean, -1.0, 1.0)
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * float(change.std(ddof=1)) / n**0.5
    return MeanEstimate(mean, mean - half, mean + half)
