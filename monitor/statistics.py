"""Two-sample tests, multiple testing and intervals: pure functions on arrays."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special  # and not stats, which takes half a second: a server is ready without it

from embedship.monitor.errors import InvalidVectors

Sample = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EXACT_LIMIT = 10_000  # scipy.stats.ks_2samp, method="auto": exact p-values while both samples are at most this large


class KolmogorovSmirnov(NamedTuple):
    """Two-sample Kolmogorov-Smirnov test of each dimension: statistic (d,) and pvalue (d,), both float64."""

    statistic: Floats
    pvalue: Floats


class ConfidenceInterval(NamedTuple):
    """A two-sided confidence interval within [0, 1]."""

    lower: float
    upper: float


@dataclass(frozen=True, slots=True, eq=False)
class SortedSample:
    """A sample, sorted once per dimension so that each later test is cheap: columns (d, n), each row ascending."""

    columns: Sample

    @classmethod
    def of(cls, sample: Sample) -> "SortedSample":
        """Sort sample (n, d), n >= 1."""
        if sample.ndim != 2 or not len(sample):
            raise InvalidVectors(f"a sample of shape {sample.shape} cannot be tested: give (n, d) with n >= 1")
        columns = np.array(sample.T, order="C")
        columns.sort(axis=1)
        return cls(columns)

    @property
    def size(self) -> int:
        return int(self.columns.shape[1])


def ks_2samp(reference: Sample | SortedSample, current: Sample) -> KolmogorovSmirnov:
    """Test, for each dimension, whether reference (n, d) and current (m, d) have one distribution.

    Two-sided. Equal to scipy.stats.ks_2samp with its defaults, one dimension at a time, to 1e-9.
    """
    statistic = ks_statistic(reference, current)
    n = reference.size if isinstance(reference, SortedSample) else len(reference)
    return KolmogorovSmirnov(statistic, ks_pvalue(statistic, n, len(current)))


def ks_statistic(reference: Sample | SortedSample, current: Sample) -> Floats:
    """Return D (d,) float64, the largest distance between the empirical distribution functions F and G:

        D = sup_x |F(x) - G(x)|,  F from reference (n, d),  G from current (m, d)

    G moves only at current points, so the supremum lies at one of them or just before it: two binary searches per
    dimension suffice. Among ties the inner ones understate G after, and overstate G before, and never win.
    """
    a = reference if isinstance(reference, SortedSample) else SortedSample.of(reference)
    b = SortedSample.of(current)
    if len(a.columns) != len(b.columns):
        raise InvalidVectors(
            f"reference has {len(a.columns)} dimensions, current has {len(b.columns)}: they must agree"
        )
    n, m = a.size, b.size
    before, after = np.empty((2, len(b.columns), m), dtype=np.int64)
    for i, (x, y) in enumerate(zip(a.columns, b.columns, strict=True)):
        before[i] = after[i] = x.searchsorted(y, side="left")
        ties = np.flatnonzero(x.take(before[i], mode="clip") == y)  # only among these does the other side differ
        after[i, ties] = x.searchsorted(y[ties], side="right")
    steps = np.arange(m + 1, dtype=np.int64) * n
    gap = np.maximum((steps[1:] - after * m).max(axis=1), (before * m - steps[:-1]).max(axis=1))
    divisor = math.gcd(n, m)  # whole numbers until here, so that equal distances are equal floats
    distances: Floats = (gap // divisor) / (n * m // divisor)
    return distances


def ks_pvalue(statistic: Floats, n: int, m: int) -> Floats:
    """Return P(D >= statistic) (d,) for sizes n and m when both samples have one continuous distribution.

    It depends on D, n and m only, so each distinct D, a multiple of 1/lcm(n, m), is computed once. Exact for sizes
    up to 10,000 (Hodges, Arkiv foer Matematik 3, 1958), Smirnov's asymptotic formula beyond, as scipy does.
    """
    lcm = math.lcm(n, m)
    heights, inverse = np.unique(np.rint(statistic * lcm).astype(np.int64), return_inverse=True)
    if max(n, m) > EXACT_LIMIT:
        from scipy import stats

        tails = stats.kstwo.sf(heights / lcm, round(n * m / (n + m)))
    elif n == m:
        tails = np.array([_equal_sizes(int(height), n) for height in heights])
    else:
        tails = np.array([_unequal_sizes(int(height), n, m) for height in heights])
    pvalues: Floats = np.asarray(np.clip(tails, 0.0, 1.0), dtype=np.float64)[inverse]
    return pvalues


def significant(statistic: Floats, n: int, m: int, alpha: float) -> Mask:
    """Return which statistics (d,) have a p-value below alpha.

    The p-value falls as D grows, so a bisection finds the first significant D: 9 p-values for 384 dimensions. That
    matters when n and m share no divisor: nearly every D is then distinct, and each exact p-value costs 1 ms.
    """
    levels = np.unique(statistic)
    first = bisect_left(range(len(levels)), True, key=lambda i: bool(ks_pvalue(levels[i : i + 1], n, m)[0] < alpha))
    return statistic >= (levels[first] if first < len(levels) else np.inf)


def discovered(statistic: Floats, n: int, m: int, alpha: float) -> Mask:
    """Return the dimensions that benjamini_hochberg(ks_pvalue(statistic, n, m), alpha) rejects, from few p-values.

    It rejects from the smallest level of D on whose p-value is at most alpha times the share of dimensions there or
    above; no level with a p-value above alpha can be that one.
    """
    ordered = np.sort(statistic)
    for level in np.unique(statistic[significant(statistic, n, m, alpha)]):
        share = 1 - ordered.searchsorted(level) / len(ordered)
        if ks_pvalue(np.array([level]), n, m)[0] <= alpha * share:
            return np.asarray(statistic >= level)
    return np.zeros(len(statistic), dtype=np.bool_)


@lru_cache(maxsize=4096)
def _equal_sizes(height: int, n: int) -> float:
    """P(D >= height / n) for two samples of n: 2 * sum_k (-1)^(k-1) C(2n, n - k height) / C(2n, n), k = 1, 2, ..."""
    if height == 0:
        return 1.0
    reach = np.arange(height, n + 1, height)
    terms = np.exp(2 * special.gammaln(n + 1) - special.gammaln(n + reach + 1) - special.gammaln(n - reach + 1))
    return float(2 * (terms[::2].sum() - terms[1::2].sum()))


@lru_cache(maxsize=4096)
def _unequal_sizes(height: int, n: int, m: int) -> float:
    """P(D >= height / lcm(n, m)), from scipy, for two-valued samples built to be exactly that far apart.

    i of the n and j of the m lie at 0, the rest at 1, where i/n - j/m is the distance. scipy's own function of
    (D, n, m) is private; this way in is public and takes its fallbacks along.
    """
    from scipy import stats

    divisor = math.gcd(n, m)
    above = np.arange(n + 1) * (m // divisor) - height
    found = np.flatnonzero((above >= 0) & (above % (n // divisor) == 0))
    if not len(found):
        raise ValueError(f"no samples of {n} and {m} have the KS statistic {height / math.lcm(n, m)}")
    j = above[found[0]] // (n // divisor)
    return float(stats.ks_2samp(np.arange(n) >= found[0], np.arange(m) >= j).pvalue)


def benjamini_hochberg(pvalue: Floats, alpha: float) -> Mask:
    """Reject the k smallest p-values (d,), k the largest with p_(k) <= k alpha / d: false discovery rate <= alpha.

    Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995; valid for independent or positively dependent tests.
    """
    order = np.argsort(pvalue)
    passed = np.flatnonzero(pvalue[order] <= alpha * np.arange(1, len(pvalue) + 1) / len(pvalue))
    rejected = np.zeros(len(pvalue), dtype=np.bool_)
    rejected[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return rejected


def recall_interval(recalls: Floats, slots: int, confidence: float = 0.95) -> ConfidenceInterval:
    """Return a confidence interval for mean recall from per-query recalls (n,) in [0, 1], k slots a query.

    The query is the unit: 100 queries x 10 slots are not 1,000 trials, since the slots of a query fail together.
    Wilson's interval at the effective number of trials p(1 - p) / (s^2 / n), with Student's t at n - 1 degrees
    (Korn and Graubard, Survey Methodology 24, 1998; Dean and Pagano, J. Surv. Stat. Methodol. 3, 2015). It stays
    informative at recall 1, where the variance is 0 and the n queries are the trials.
    """
    n = len(recalls)
    if n < 2:
        return ConfidenceInterval(0.0, 1.0)
    mean = float(recalls.mean())
    variance = float(recalls.var(ddof=1)) / n
    spread = mean * (1 - mean)
    trials = n if spread == 0 else n * slots if variance == 0 else min(max(spread / variance, n), n * slots)
    z = float(special.stdtrit(n - 1, (1 + confidence) / 2))
    centre = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(spread / trials + (z / (2 * trials)) ** 2)
    return ConfidenceInterval(max(0.0, centre - half), min(1.0, centre + half))
