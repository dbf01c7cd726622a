"""What the drift score does while nothing drifts, learned from the reference alone."""

import math
from typing import NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from embedship.monitor.metric import crossfit
from embedship.monitor.sessions import Ids, Index, Totals, effective_size, index_of, plain_variance, totals
from embedship.monitor.statistics import Floats, Mask, Sample

Times = NDArray[np.float64]

SIMULATIONS = 2_048
LEAST_SESSIONS = 20  # fewer tell nothing of how sessions differ
BLOCKS = 64
BLOCK_ROWS = 25  # fewer rows would tell of a block's mean only its noise
FOLDS = 5
FOLD_WINDOWS = 16
PARTITIONS = 3
FOLD_SIMULATIONS = 512
LEAST_SKEWNESS = 0.02


class Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gamma distribution moved by loc. A sum of weighted chi-squares with its first three moments has tails that are
    close to its own (Buckley and Eagleson, Australian J. Stat. 30, 1988), far beyond what can be simulated."""

    shape: float
    loc: float
    scale: float

    @classmethod
    def fit(cls, scores: Floats) -> Self:
        mean, deviation = float(scores.mean()), float(scores.std())
        skewness = max(_skewness(scores), LEAST_SKEWNESS)
        shape, scale = 4 / skewness**2, deviation * skewness / 2
        return cls(shape, mean - shape * scale, scale)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The drift score without drift.

    score = |mean of the window - mean of the reference|^2 / (their variance by sampling), in the reference's metric:
    about 1, whatever the sizes and the sessions. tails hold its distribution, one for each time block of the reference.
    """

    window: int  # queries of the windows it holds for
    tails: tuple[Tail, ...]
    variance: float  # of the reference's mean, sessions respected
    design: float  # variance of a mean with sessions / without: a window whose sessions are unknown takes it over
    effective: float  # independent rows that the reference is worth
    held_out_windows: int = 0
    held_out_mean: float = 0.0  # of their scores as standard normal deviates: 0 and 1 if the tails are right
    held_out_deviation: float = 1.0

    def log_chance(self, score: float) -> float:
        """Return the logarithm of the chance that one window without drift reaches this score."""
        return float(_log_chance(self.tails, np.array([score]))[0])

    def threshold(self, chance: float) -> float:
        """Return the score that one window reaches without drift with this chance."""
        goal, low, high = np.log(chance), 0.0, 2.0
        while self.log_chance(high) > goal:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.log_chance(middle) > goal else (low, middle)
        return high

    def measured(self, chance: float) -> float:
        """Return the chance in one window that held-out blocks of the reference show, where `chance` is promised."""
        deviate = -float(special.ndtri(chance))
        return float(special.ndtr(-(deviate - self.held_out_mean) / self.held_out_deviation))


class _Null(NamedTuple):
    """Simulated windows without drift: shifts (L, d) of the mean and their variances by sampling (L,)."""

    shifts: Floats
    variances: Floats


def calibrate(
    vectors: Sample, sessions: Ids | None, times: Times | None, *, window: int, queries: int, seed: int = 0
) -> Calibration:
    """Learn the distribution of the score from reference vectors (n, d), a sample of so many queries.

    A window and a reference are drawn again and again, session by session with replacement, from rows whitened by
    cross-fitting; the score is studentised, so sessions of other lengths than the reference's do no harm. times (n,)
    cut the reference into blocks as long as a window where there are rows enough, and what blocks differ by beyond
    sampling (of a morning, of a weekend) is part of the null: each block has its own tail. Successive windows share
    queries, which makes alarms come in runs; a budget counted by evaluation therefore holds for runs at any traffic.
    """
    random = np.random.default_rng(seed)
    index = index_of(sessions, len(vectors))
    blocks = _blocks(times, index, window, queries)
    deviates = []
    for _ in range(PARTITIONS):
        folds = _folds(index, blocks, random)
        rows = crossfit(vectors, folds)
        deviates += [_held_out(rows, index, blocks, folds == fold, random) for fold in np.unique(folds)]
    held_out = np.concatenate(deviates)
    variance = totals(rows, index).variance
    return Calibration(
        window=window,
        tails=_tails(rows, index, blocks, window, SIMULATIONS, random),
        variance=variance,
        design=max(1.0, variance / plain_variance(rows)),
        effective=effective_size(rows, sessions),
        held_out_windows=len(held_out),
        held_out_mean=float(held_out.mean()),
        held_out_deviation=float(held_out.std()),
    )


def _tails(
    rows: Sample, index: Index, blocks: Index, window: int, count: int, random: np.random.Generator
) -> tuple[Tail, ...]:
    centred = rows - rows.mean(axis=0)
    null = _simulate(totals(centred, index), window, count, random)
    offsets = _offsets(centred, index, blocks)
    squares = (null.shifts**2).sum(axis=1)
    crossed = 2 * null.shifts @ offsets.T
    scores = (squares[:, None] + crossed + (offsets**2).sum(axis=1)) / null.variances[:, None]
    return tuple(Tail.fit(column) for column in scores.T)


def _simulate(summed: Totals, window: int, count: int, random: np.random.Generator) -> _Null:
    """Draw windows and references from sessions: a Poisson bootstrap, so that a draw is a product of matrices."""
    sessions = len(summed.sizes)
    share = window / summed.sizes.sum()
    shifts, variances = np.zeros((count, summed.sums.shape[1])), np.zeros(count)
    for rate, sign in ((share, 1), (1.0, -1)):
        draws = random.poisson(rate, (count, sessions)).astype(np.float32)
        draws[draws.sum(axis=1) == 0, 0] = 1
        sizes = draws @ summed.sizes
        shifts += sign * (draws @ summed.sums.astype(np.float32)) / sizes[:, None]
        variances += draws @ summed.spreads / sizes**2
    return _Null(shifts, variances)


def _log_chance(tails: tuple[Tail, ...], scores: Floats) -> Floats:
    """Logarithm of the mean over tails of the chance to reach each score (m,), and below 0: a deviate is finite."""
    shape, loc, scale = np.array([(tail.shape, tail.loc, tail.scale) for tail in tails]).T[:, :, None]
    logs: Floats = special.logsumexp(_log_gamma_tail((scores - loc) / scale, shape), axis=0) - np.log(len(tails))
    below: Floats = np.minimum(logs, -np.finfo(np.float64).eps)
    return below


def _log_gamma_tail(x: Floats, shape: Floats) -> Floats:
    """log P(X >= x) of a gamma distribution: as scipy.stats.gamma.logsf, which takes half a second to load."""
    x, shape = np.broadcast_arrays(np.maximum(x, 0.0), shape)
    with np.errstate(divide="ignore"):  # a chance of 0 has the logarithm -inf
        far, near = np.log(special.gammaincc(shape, x)), np.log1p(-special.gammainc(shape, x))
    tail: Floats = np.where(x > shape, far, near)  # each where it does not lose digits
    return tail


def _skewness(scores: Floats) -> float:
    centred = scores - scores.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)


def _blocks(times: Times | None, index: Index, window: int, queries: int) -> Index:
    """Number the blocks of time (n,): of equally many sessions, and as long as a window if that leaves rows enough.

    A session belongs where its first query does. Without times there is one block.
    """
    count = 1 if times is None else max(1, min(BLOCKS, len(index) // BLOCK_ROWS, round(queries / window)))
    if times is None or count == 1:
        return np.zeros(len(index), dtype=np.intp)
    starts = np.full(int(index.max()) + 1, np.inf)
    np.minimum.at(starts, index, times)
    ranks = np.argsort(np.argsort(starts, kind="stable"), kind="stable")
    return (ranks * count // len(starts))[index]


def _offsets(rows: Sample, index: Index, blocks: Index) -> Floats:
    """Return how far the mean of each block lies from the whole (B, d), shrunk by what sampling alone explains."""
    parts = [totals(rows[blocks == block], index[blocks == block]) for block in np.unique(blocks)]
    if len(parts) == 1:
        return np.zeros((1, rows.shape[1]))
    offsets = np.array([part.mean for part in parts])
    between, within = float((offsets**2).sum()), sum(part.variance for part in parts)
    shrink = math.sqrt(max(0.0, 1 - within / between))
    shrunk: Floats = offsets * shrink
    return shrunk


def _held_out(rows: Sample, index: Index, blocks: Index, inside: Mask, random: np.random.Generator) -> Floats:
    """Return scores of one fold's windows against the other folds, as standard normal deviates.

    A window is a random half of the fold's sessions; its tails come from the others.
    """
    others, part = ~inside, totals(rows[inside], index[inside])
    window = max(2, int(inside.sum()) // 2)
    tails = _tails(rows[others], index[others], blocks[others], window, FOLD_SIMULATIONS, random)
    variance = totals(rows[others], index[others]).variance
    scores = np.empty(FOLD_WINDOWS)
    for i in range(FOLD_WINDOWS):
        chosen = random.permutation(len(part.sizes))[: max(2, len(part.sizes) // 2)]
        half = Totals(part.sums[chosen], part.sizes[chosen])
        scores[i] = float((half.mean**2).sum()) / (half.variance + variance)
    deviates: Floats = np.negative(special.ndtri_exp(_log_chance(tails, scores)))
    return deviates


def _folds(index: Index, blocks: Index, random: np.random.Generator) -> Index:
    """Cut into stretches of time that begin anywhere; without times, or with few blocks, into sets of sessions."""
    count = int(blocks.max()) + 1
    if count >= FOLDS:
        shifted: Index = (blocks + random.integers(count)) % count * FOLDS // count
        return shifted
    order: Index = random.permutation(int(index.max()) + 1) % FOLDS
    return order[index]
