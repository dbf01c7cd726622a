"""Permutation tests for two samples, for use without a calibrated detector: MMD and energy distance.

Whole sessions are permuted (Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005): queries of one
session are similar. Permuting them one by one reports drift in 9 of 10 samples of two-query sessions without drift.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist

from embedship.monitor.drift.sessions import Ids, Index, index_of
from embedship.monitor.errors import InvalidVectors
from embedship.monitor.statistics import Floats, Sample

PERMUTATIONS = 199
MEDIAN_ROWS = 500  # enough to estimate the median distance


class TwoSample(NamedTuple):
    """A statistic, larger when the samples differ more, and its p-value.

    The original labels count as one of the permutations, so p is at least 1 / (permutations + 1). This makes the test
    valid (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010).
    """

    statistic: float
    pvalue: float


class PooledSample(NamedTuple):
    """Both samples: rows (n + m, d) and the session of each row. The reference has the sessions below `reference`."""

    rows: Floats
    session: Index
    reference: int

    @classmethod
    def from_samples(
        cls,
        reference: Sample,
        current: Sample,
        reference_sessions: Ids | None = None,
        current_sessions: Ids | None = None,
    ) -> Self:
        """Pool reference (n, d) and current (m, d). Equal ids in both samples are different sessions."""
        if reference.ndim != 2 or current.ndim != 2 or reference.shape[1] != current.shape[1]:
            raise InvalidVectors(f"samples of shapes {reference.shape} and {current.shape} cannot be compared")
        if not len(reference) or not len(current):
            raise InvalidVectors("a sample without vectors cannot be compared")
        first, second = index_of(reference_sessions, len(reference)), index_of(current_sessions, len(current))
        count = int(first.max()) + 1
        rows = np.concatenate([reference, current]).astype(np.float64)
        return cls(rows, np.concatenate([first, second + count]), count)

    def permute(self, statistic: Callable[[Floats], Floats], permutations: int, seed: int) -> TwoSample:
        """Test with random labels. statistic: (P, J) labels, 1 for a current session, to (P,) values."""
        sessions = int(self.session.max()) + 1
        labels = np.tile((np.arange(sessions) >= self.reference).astype(np.float64), (permutations + 1, 1))
        labels[1:] = np.random.default_rng(seed).permuted(labels[1:], axis=1)
        values = statistic(labels)
        reached = values[1:] >= values[0] * (1 - 1e-12)  # the same sum in another order may differ by rounding
        return TwoSample(float(values[0]), float((1 + reached.sum()) / (permutations + 1)))


def mmd(pool: PooledSample, *, permutations: int = PERMUTATIONS, seed: int = 0) -> TwoSample:
    """Test the squared maximum mean discrepancy, biased (V-statistic), RBF kernel, median heuristic.

    Gretton, Borgwardt, Rasch, Schoelkopf and Smola, JMLR 13, 2012: exp(-|x - y|^2 / (2 s^2)), s the median distance.
    """
    few = pool.rows[np.random.default_rng(seed).permutation(len(pool.rows))[:MEDIAN_ROWS]]
    scale = float(np.median(pdist(few))) or 1.0
    kernel = np.exp(-_squares(pool.rows) / (2 * scale**2))
    return _between(pool, kernel, permutations, seed)


def energy(pool: PooledSample, *, permutations: int = PERMUTATIONS, seed: int = 0) -> TwoSample:
    """Test 2 E|x - y| - E|x - x'| - E|y - y'|, the energy distance. Szekely and Rizzo, J. Stat. Plan. Inf. 143."""
    return _between(pool, -np.sqrt(_squares(pool.rows)), permutations, seed)


def _squares(rows: Floats) -> Floats:
    lengths = (rows**2).sum(axis=1)
    squares: Floats = np.maximum(lengths[:, None] + lengths - 2 * rows @ rows.T, 0)
    np.fill_diagonal(squares, 0)
    return squares


def _between(pool: PooledSample, kernel: Floats, permutations: int, seed: int) -> TwoSample:
    """Test mean k(x, x') + mean k(y, y') - 2 mean k(x, y) for the kernel's matrix (n + m, n + m)."""
    member = csr_array((np.ones(len(pool.session)), (pool.session, np.arange(len(pool.session)))))
    by_session = np.asarray(member @ np.asarray(member @ kernel).T)
    sizes, whole = np.bincount(pool.session).astype(np.float64), by_session.sum()

    def statistic(labels: Floats) -> Floats:
        crossed = labels @ by_session
        inside, mixed = (crossed * labels).sum(axis=1), crossed.sum(axis=1)
        n, m = labels @ sizes, sizes.sum() - labels @ sizes
        distances: Floats = inside / n**2 + (whole - 2 * mixed + inside) / m**2 - 2 * (mixed - inside) / (n * m)
        return distances

    return pool.permute(statistic, permutations, seed)
