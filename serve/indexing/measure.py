"""Measures recall@k of an index against exact search over the same vectors."""

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
    """Measure recall with these query vectors (n, dim). `source` is their name in the manifest."""
    return _recall(index.search(queries, K).rows, index.exact(queries, K).rows, source)


def by_documents(index: Index, truth: ExactVectors) -> IndexRecall | None:
    """Measure recall with evenly spaced documents as queries. Each document is removed from its own results.

    Documents can be easier or harder to search for than real queries, which are shorter. The result shows that the
    index works. It does not predict the recall of real queries.
    """
    own = np.unique(np.linspace(0, truth.size - 1, _SAMPLE).astype(np.int64))
    queries = truth.rows(own)
    actual, expected = (_without(search(queries, K + 1).rows, own) for search in (index.search, index.exact))
    return _recall(actual, expected, SAMPLED)


def interval(right: NDArray[np.int64], wanted: NDArray[np.int64]) -> MeanInterval:
    """Return the share of hits found and its 95% interval, for n queries that found `right` of `wanted` hits each.

    The hits of one query are correlated, so they do not count as independent trials. The interval is the exact binomial
    interval at the effective sample size (Korn and Graubard, Survey Methodology 24, 1998). If the share is
    the same for all queries, the effective sample size is the number of queries.
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
    """Turn (n, k + 1) hits into (n, k) in the same order, without the query's own row, which may be missing already."""
    others_first = np.argsort(rows == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(rows, others_first, axis=1)[:, :-1]


def _recall(actual: NDArray[np.int64], expected: NDArray[np.int64], source: str) -> IndexRecall | None:
    """Return the recall; None if there were no rows to find."""
    right, wanted = overlap(actual, expected)
    if not wanted.sum():
        return None
    recall = interval(right[wanted > 0], wanted[wanted > 0])
    return IndexRecall(k=K, queries=len(actual), source=source, ratio=recall.mean, low=recall.low)
