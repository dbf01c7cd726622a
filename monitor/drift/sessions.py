"""Sums, variance and effective size of queries grouped by session. A session is one piece of evidence."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedship.monitor.errors import InvalidVectors
from embedship.monitor.statistics import Floats, Sample

Ids = NDArray[np.int64]
Index = NDArray[np.intp]


class SessionTotals(NamedTuple):
    """The sum (J, d) of the vectors of each session, and its number of queries (J,)."""

    sums: Floats
    sizes: Floats

    @property
    def mean(self) -> Floats:
        """Mean of all queries (d,)."""
        mean: Floats = self.sums.sum(axis=0) / self.sizes.sum()
        return mean

    @property
    def spreads(self) -> Floats:
        """|sum_j - size_j mean|^2 of each session (J,): its contribution to the variance of the mean, times n^2."""
        spreads: Floats = ((self.sums - self.sizes[:, None] * self.mean) ** 2).sum(axis=1)
        return spreads

    @property
    def variance(self) -> float:
        """Trace of the covariance of the mean, if sessions are independent and queries within a session are not.

        sum_j |sum_j - size_j mean|^2 / n^2 * J / (J - 1), the cluster-robust estimate (Liang and Zeger, Biometrika 73,
        1986). The trace over all dimensions needs no d x d matrix.
        """
        count = len(self.sizes)
        return float(self.spreads.sum() / self.sizes.sum() ** 2 * count / max(count - 1, 1))


def index_of(sessions: Ids | None, n: int) -> Index:
    """Return session numbers 0 to J - 1 for n queries, (n,). None or a negative id means a session of one query."""
    if sessions is None:
        return np.arange(n)
    if sessions.shape != (n,):
        raise InvalidVectors(f"{n} queries need {n} session ids, not shape {sessions.shape}")
    alone = sessions < 0
    unique = np.where(alone, -1 - np.arange(n), sessions)
    return np.unique(unique, return_inverse=True)[1].ravel()


def totals(vectors: Sample, index: Index) -> SessionTotals:
    """Sum vectors (n, d) by session; index (n,) as returned by `index_of`."""
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    sizes = np.diff(starts, append=len(index)).astype(np.float64)
    if len(sizes) == len(vectors):
        return SessionTotals(vectors.astype(np.float64), sizes)
    return SessionTotals(np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64), sizes)


def plain_variance(vectors: Sample) -> float:
    """Trace of the covariance of the mean of vectors (n, d), all independent."""
    return float(vectors.var(axis=0, ddof=1, dtype=np.float64).sum()) / len(vectors)


def effective_size(vectors: Sample, sessions: Ids | None) -> float:
    """Return the number of independent queries with as much evidence about the mean as these (n, d), at most n.

    It is n / deff. The design effect deff is the variance of the mean with sessions, divided by that without. For
    sessions of equal size b and intra-session correlation r, deff is Kish's 1 + (b - 1) r (Survey Sampling, 1965).
    """
    n = len(vectors)
    index = index_of(sessions, n)
    clustered = totals(vectors, index).variance
    plain = plain_variance(vectors)
    return n * min(1.0, plain / clustered) if clustered > 0 else float(len(np.unique(index)))
