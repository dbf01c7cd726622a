"""Recall@k of an index against exact search over the same vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from embedship.codes import Vectors
from embedship.monitor.recall.rolling import overlap
from embedship.serve.index import Index
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import SAMPLED, IndexRecall, MeanInterval

K = 10
_SAMPLE = 200


def by_queries(index: Index, queries: Vectors, source: str) -> IndexRecall | None:
    return _recall(index.search(queries, K).rows, index.exact(queries, K).rows, source)


def by_documents(index: Index, truth: ExactVectors) -> IndexRecall | None:
    """With evenly spaced documents as queries, each blind to itself.

    Easier or harder than real queries, which are shorter: it shows that the index works, not what users will see.
    """
    own = np.unique(np.linspace(0, truth.size - 1, _SAMPLE).astype(np.int64))
    queries = truth.rows(own)
    found, expected = (_without(search(queries, K + 1).rows, own) for search in (index.search, index.exact))
    return _recall(found, expected, SAMPLED)


def interval(right: NDArray[np.int64], wanted: NDArray[np.int64]) -> MeanInterval:
    """The share of hits found, of n queries with `right` of `wanted` each, and its 95% interval.

    The hits of one query stand and fall together, so they do not count as so many trials: exact binomial limits at the
    effective sample size (Korn and Graubard, Survey Methodology 24, 1998), which is that of the queries where all is
    found or nothing.
    """
    mean = float(right.sum() / wanted.sum())
    shares = right / wanted
    variance = float(shares.var(ddof=1)) / len(shares) if len(shares) > 1 else 0.0
    trials = min(mean * (1 - mean) / variance, float(wanted.sum())) if variance else float(len(shares))
    hits = mean * trials
    low = float(stats.beta.ppf(0.025, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, trials - hits)) if hits < trials else 1.0
    return MeanInterval(mean=mean, low=low, high=high)


def _without(rows: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, k + 1) hits -> (n, k) in the same order, without the query's own row; it may be missing already."""
    others_first = np.argsort(rows == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(rows, others_first, axis=1)[:, :-1]


def _recall(found: NDArray[np.int64], expected: NDArray[np.int64], source: str) -> IndexRecall | None:
    """None when there was nothing to find."""
    right, wanted = overlap(found, expected)
    if not wanted.sum():
        return None
    judged = interval(right[wanted > 0], wanted[wanted > 0])
    return IndexRecall(k=K, queries=len(found), source=source, ratio=judged.mean, low=judged.low)
