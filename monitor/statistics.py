"""Statistical tests and confidence intervals: pure functions on arrays."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special  # not scipy.stats, which takes half a second to load: server startup must not wait for it

from embedship.monitor.errors import InvalidVectors

Sample = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EXACT_LIMIT = 10_000  # as in scipy.stats.ks_2samp(method="auto"): exact p-values if neither sample is larger


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
    """A sample sorted once per dimension, which makes each later test cheap. columns (d, n), each row ascending."""

    columns: Sample

    @classmethod
    def from_rows(cls, sample: Sample) -> "SortedSample":
        """Sort sample (n, d), n >= 1. Raises InvalidVectors."""
        if sample.ndim != 2 or not len(sample):
            raise InvalidVectors(f"a sample of shape {sample.shape} cannot be tested: give (n, d) with n >= 1")
        columns = np.array(sample.T, order="C")
        columns.sort(axis=1)
        return cls(columns)

    @property
    def size(self) -> int:
        return int(self.columns.shape[1])


def ks_2samp(reference: Sample | SortedSample, current: Sample) -> KolmogorovSmirnov:
    """Test for each dimension whether reference (n, d) and current (m, d) have the same distribution.

    Two-sided. Equal to scipy.stats.ks_2samp with its defaults, one dimension at a time, to 1e-9.
    """
    statistic = ks_statistic(reference, current)
    n = reference.size if isinstance(reference, SortedSample) else len(reference)
    return KolmogorovSmirnov(statistic, ks_pvalue(statistic, n, len(current)))


def ks_statistic(reference: Sample | SortedSample, current: Sample) -> Floats:
    """Return D (d,) float64, the largest distance between the empirical distribution functions F and G:

        D = sup_x |F(x) - G(x)|,  F from reference (n, d),  G from current (m, d)

    G changes only at points of `current`, so the supremum is at one of them or just before it. So two binary searches
    per dimension are enough. If several points are equal, the last gives the right G after the point, and the first
    the right G before it. The others give a smaller distance, so they never give the maximum.
    """
    a = reference if isinstance(reference, SortedSample) else SortedSample.from_rows(reference)
    b = SortedSample.from_rows(current)
    if len(a.columns) != len(b.columns):
        raise InvalidVectors(
            f"reference has {len(a.columns)} dimensions, current has {len(b.columns)}: they must agree"
        )
    n, m = a.size, b.size
    before, after = np.empty((2, len(b.columns), m), dtype=np.int64)
    for i, (x, y) in enumerate(zip(a.columns, b.columns, strict=True)):
        before[i] = after[i] = x.searchsorted(y, side="left")
        ties = np.flatnonzero(x.take(before[i], mode="clip") == y)  # the right side differs only for equal values
        after[i, ties] = x.searchsorted(y[ties], side="right")
    steps = np.arange(m + 1, dtype=np.int64) * n
    gap = np.maximum((steps[1:] - after * m).max(axis=1), (before * m - steps[:-1]).max(axis=1))
    divisor = math.gcd(n, m)  # integers until this line, so that equal distances are equal floats
    distances: Floats = (gap // divisor) / (n * m // divisor)
    return distances


def ks_pvalue(statistic: Floats, n: int, m: int) -> Floats:
    """Return P(D >= statistic) (d,) for sizes n and m if both samples have the same continuous distribution.

    It depends only on D, n and m. Each distinct D, a multiple of 1/lcm(n, m), is therefore computed once. Exact for
    sizes up to 10,000 (Hodges, Arkiv foer Matematik 3, 1958); above that Smirnov's asymptotic formula, as in scipy.
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


def significance_mask(statistic: Floats, n: int, m: int, alpha: float) -> Mask:
    """Return which statistics (d,) have a p-value below alpha.

    The p-value falls as D grows, so a bisection finds the smallest significant D with 9 p-values for 384 dimensions.
    This saves time if n and m have no common divisor: then nearly every D is distinct, and each exact p-value takes
    1 ms.
    """
    levels = np.unique(statistic)
    first = bisect_left(range(len(levels)), True, key=lambda i: bool(ks_pvalue(levels[i : i + 1], n, m)[0] < alpha))
    return statistic >= (levels[first] if first < len(levels) else np.inf)


def discovery_mask(statistic: Floats, n: int, m: int, alpha: float) -> Mask:
    """Return the same as benjamini_hochberg(ks_pvalue(statistic, n, m), alpha), but compute few p-values.

    The method finds D0, the smallest D whose p-value is at most alpha times the share of dimensions with D >= D0, and
    rejects these dimensions. The p-value of D0 is never above alpha, so only significant D are tried.
    """
    ordered = np.sort(statistic)
    for level in np.unique(statistic[significance_mask(statistic, n, m, alpha)]):
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
    """P(D >= height / lcm(n, m)) from scipy, computed on two-valued samples with exactly this distance.

    i of the n values and j of the m values are 0, the others 1, where i/n - j/m is the distance. scipy's own function
    of (D, n, m) is private; this uses the public function, including its fallbacks.
    """
    from scipy import stats

    divisor = math.gcd(n, m)
    above = np.arange(n + 1) * (m // divisor) - height
    matching = np.flatnonzero((above >= 0) & (above % (n // divisor) == 0))
    if not len(matching):
        raise ValueError(f"no samples of {n} and {m} have the KS statistic {height / math.lcm(n, m)}")
    j = above[matching[0]] // (n // divisor)
    return float(stats.ks_2samp(np.arange(n) >= matching[0], np.arange(m) >= j).pvalue)


def benjamini_hochberg(pvalue: Floats, alpha: float) -> Mask:
    """Reject the k smallest p-values (d,), k the largest with p_(k) <= k alpha / d. False discovery rate <= alpha.

    Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995; valid for independent or positively dependent tests.
    """
    order = np.argsort(pvalue)
    passed = np.flatnonzero(pvalue[order] <= alpha * np.arange(1, len(pvalue) + 1) / len(pvalue))
    rejected = np.zeros(len(pvalue), dtype=np.bool_)
    rejected[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return rejected


def recall_interval(recalls: Floats, slots: int, confidence: float = 0.95) -> ConfidenceInterval:
    """Return a confidence interval for mean recall from per-query recalls (n,) in [0, 1], with k slots per query.

    The query is the unit of observation: 100 queries x 10 slots are not 1,000 trials, because the slots of one query
    fail together. This is Wilson's interval with p(1 - p) / (s^2 / n) effective trials, and with Student's t at n - 1
    degrees of freedom (Korn and Graubard, Survey Methodology 24, 1998; Dean and Pagano, J. Surv. Stat. Methodol. 3,
    2015). At recall 1, where the variance is 0, the n queries are the trials, so the interval stays informative.
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
