"""ScoreCalibration: the distribution of the drift score without drift, learned from the reference alone."""

import math
from typing import NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from embedship.monitor.drift.features import ShiftFeatures, crossfit
from embedship.monitor.drift.sessions import Ids, Index, SessionTotals, effective_size, index_of, plain_variance, totals
from embedship.monitor.statistics import Floats, Mask, Sample

Times = NDArray[np.float64]

SIMULATIONS = 2_048
LEAST_SESSIONS = 20  # with fewer, the difference between sessions cannot be estimated
BLOCKS = 64
BLOCK_ROWS = 25  # with fewer rows, the mean of a block is mostly noise
FOLDS = 5
HELD_OUT_ROWS, HELD_OUT_SESSIONS = 40, 10  # minimum in a held-out block if there are no times
FOLD_SIMULATIONS = 512
CONFIDENCE = 0.95
LEAST_SKEWNESS = 0.02


class GammaTail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gamma distribution shifted by loc, used for probabilities that are too small to be simulated.

    A sum of weighted chi-squares has tails close to those of the gamma distribution with the same first three moments
    (Buckley and Eagleson, Australian J. Stat. 30, 1988).
    """

    shape: float
    loc: float
    scale: float

    @classmethod
    def fit(cls, scores: Floats) -> Self:
        """Fit the gamma distribution to simulated scores (n,) by their first three moments."""
        mean, deviation = float(scores.mean()), float(scores.std())
        skewness = max(_skewness(scores), LEAST_SKEWNESS)
        shape, scale = 4 / skewness**2, deviation * skewness / 2
        return cls(shape, mean - shape * scale, scale)


class MeasuredAlarmRate(NamedTuple):
    """The chance of a false alarm, estimated on held-out blocks, and its confidence interval."""

    chance: float
    lower: float
    upper: float


class ScoreCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The distribution of the drift score without drift.

    score = |mean of the window's features|^2 / (its sampling variance, including that of the reference): about 1
    without drift, for any sizes and sessions. tails: its distribution, one for each time block of the reference.
    """

    window: int  # queries per window
    tails: tuple[GammaTail, ...]
    variance: float  # of the reference's mean, with sessions taken into account
    design: float  # variance of a mean with sessions, divided by that without; for windows with unknown sessions
    effective: float  # number of independent rows with as much evidence as the reference
    held_out_blocks: int = 0
    held_out_mean: float = 0.0  # of the blocks' scores as standard normal deviates; 0 if the tails are right
    held_out_deviation: float = 1.0  # of the same deviates; 1 if the tails are right

    def log_chance(self, score: float) -> float:
        """Return the logarithm of the probability that one window without drift reaches this score."""
        return float(_log_chance(self.tails, np.array([score]))[0])

    def threshold(self, chance: float) -> float:
        """Return the score that one window without drift reaches with this probability."""
        goal, low, high = np.log(chance), 0.0, 2.0
        while self.log_chance(high) > goal:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.log_chance(middle) > goal else (low, middle)
        return high

    def measured_alarm_rate(self, chance: float) -> MeasuredAlarmRate:
        """Return the false-alarm probability per window, measured on held-out blocks, when `chance` is promised.

        Each block is one observation, regardless of its number of queries, so the interval is clustered by block. It is
        the exact interval for the tail of a normal distribution with unknown mean and deviation, from the noncentral t
        distribution (Owen, Technometrics 10, 1968). The deviates are normal if the tails are right. The interval is
        wide, because no log is long enough to count alarms that occur once per month.
        """
        distance = (-float(special.ndtri(chance)) - self.held_out_mean) / self.held_out_deviation
        root = math.sqrt(self.held_out_blocks)
        ends = (1 + np.array([CONFIDENCE, -CONFIDENCE])) / 2  # the largest distance gives the smallest chance
        limits = special.nctdtrinc(self.held_out_blocks - 1, 1 - ends, distance * root) / root
        return MeasuredAlarmRate(float(special.ndtr(-distance)), *(float(special.ndtr(-limit)) for limit in limits))


class _NullWindows(NamedTuple):
    """Simulated windows without drift: shifts (L, d) of the mean and their sampling variances (L,)."""

    shifts: Floats
    variances: Floats


def calibrate(
    vectors: Sample, sessions: Ids | None, times: Times | None, *, window: int, queries: int, seed: int = 0
) -> ScoreCalibration:
    """Learn the distribution of the score from reference vectors (n, d), which are a sample of `queries` queries.

    Windows and references are drawn repeatedly, session by session with replacement, from cross-fitted features. The
    score is divided by its standard error, so the sessions of a window may be longer or shorter than those of the
    reference. times (n,) divide the reference into blocks as long as a window if there are enough rows. Blocks can
    differ by more than sampling noise (a morning, a weekend). Such differences are part of the null distribution,
    because each block has its own tail. Consecutive windows share queries, so alarms come in series. The budget counts
    every evaluation that alarms, so it also holds for such series, at any traffic.
    """
    random = np.random.default_rng(seed)
    index = index_of(sessions, len(vectors))
    blocks = _blocks(times, index, window, queries)
    parts, folds = _parts(index, blocks, random)
    rows = crossfit(vectors, folds, _groups(index, blocks))
    held_out = np.concatenate([_held_out(rows, index, blocks, parts, folds == fold, random) for fold in range(FOLDS)])
    variance = totals(rows, index).variance
    return ScoreCalibration(
        window=window,
        tails=_tails(rows, index, blocks, window, SIMULATIONS, random),
        variance=variance,
        design=max(1.0, variance / plain_variance(rows)),
        effective=effective_size(rows, sessions),
        held_out_blocks=len(held_out),
        held_out_mean=float(held_out.mean()),
        held_out_deviation=float(held_out.std(ddof=1)),
    )


def fit_features(
    vectors: Sample, sessions: Ids | None, times: Times | None, *, window: int, queries: int
) -> ShiftFeatures:
    """Fit the feature map of a window on all reference vectors that `calibrate` receives."""
    index = index_of(sessions, len(vectors))
    return ShiftFeatures.fit(vectors, _groups(index, _blocks(times, index, window, queries)))


def _tails(
    rows: Sample, index: Index, blocks: Index, window: int, count: int, random: np.random.Generator
) -> tuple[GammaTail, ...]:
    centred = rows - rows.mean(axis=0)
    null = _simulate(totals(centred, index), window, count, random)
    offsets = _offsets(centred, index, blocks)
    squares = (null.shifts**2).sum(axis=1)
    crossed = 2 * null.shifts @ offsets.T
    scores = (squares[:, None] + crossed + (offsets**2).sum(axis=1)) / null.variances[:, None]
    return tuple(GammaTail.fit(column) for column in scores.T)


def _simulate(summed: SessionTotals, window: int, count: int, random: np.random.Generator) -> _NullWindows:
    """Draw windows and references from sessions with a Poisson bootstrap, so that the draws are matrix products."""
    sessions = len(summed.sizes)
    share = window / summed.sizes.sum()
    shifts, variances = np.zeros((count, summed.sums.shape[1])), np.zeros(count)
    for rate, sign in ((share, 1), (1.0, -1)):
        draws = random.poisson(rate, (count, sessions)).astype(np.float32)
        draws[draws.sum(axis=1) == 0, 0] = 1
        sizes = draws @ summed.sizes
        shifts += sign * (draws @ summed.sums.astype(np.float32)) / sizes[:, None]
        variances += draws @ summed.spreads / sizes**2
    return _NullWindows(shifts, variances)


def _log_chance(tails: tuple[GammaTail, ...], scores: Floats) -> Floats:
    """Return log(mean over tails of P(score or higher)) for scores (m,). It is below 0, so deviates are finite."""
    shape, loc, scale = np.array([(tail.shape, tail.loc, tail.scale) for tail in tails]).T[:, :, None]
    logs: Floats = special.logsumexp(_log_gamma_tail((scores - loc) / scale, shape), axis=0) - np.log(len(tails))
    below: Floats = np.minimum(logs, -np.finfo(np.float64).eps)
    return below


def _log_gamma_tail(x: Floats, shape: Floats) -> Floats:
    """Return log P(X >= x) of a gamma distribution, like scipy.stats.gamma.logsf.

    scipy.stats is not used, because it takes half a second to load.
    """
    x, shape = np.broadcast_arrays(np.maximum(x, 0.0), shape)
    with np.errstate(divide="ignore"):  # a probability of 0 has the logarithm -inf
        far, near = np.log(special.gammaincc(shape, x)), np.log1p(-special.gammainc(shape, x))
    tail: Floats = np.where(x > shape, far, near)  # each formula where it is precise
    return tail


def _skewness(scores: Floats) -> float:
    centred = scores - scores.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)


def _blocks(times: Times | None, index: Index, window: int, queries: int) -> Index:
    """Return the time block of each row (n,). Blocks have equal numbers of sessions.

    They are as long as a window if that leaves enough rows. A session belongs to the block of its first query. Without
    times there is one block.
    """
    sessions = int(index.max()) + 1
    count = max(1, min(BLOCKS, len(index) // BLOCK_ROWS, sessions // 2, round(queries / window)))
    if times is None or count == 1:
        return np.zeros(len(index), dtype=np.intp)
    starts = np.full(sessions, np.inf)
    np.minimum.at(starts, index, times)
    ranks = np.argsort(np.argsort(starts, kind="stable"), kind="stable")
    return (ranks * count // len(starts))[index]


def _offsets(rows: Sample, index: Index, blocks: Index) -> Floats:
    """Return the offset of each block's mean from the overall mean (B, d), shrunk by the share of sampling noise."""
    parts = [totals(rows[blocks == block], index[blocks == block]) for block in np.unique(blocks)]
    if len(parts) == 1:
        return np.zeros((1, rows.shape[1]))
    offsets = np.array([part.mean for part in parts])
    between, within = float((offsets**2).sum()), sum(part.variance for part in parts)
    shrink = math.sqrt(max(0.0, 1 - within / between))
    shrunk: Floats = offsets * shrink
    return shrunk


def _groups(index: Index, blocks: Index) -> Index:
    """Return groups (n,) whose members do not count as neighbours of each other: blocks if enough, else sessions."""
    return blocks if int(blocks.max()) + 1 >= FOLDS else index


def _parts(index: Index, blocks: Index, random: np.random.Generator) -> tuple[Index, Index]:
    """Return the held-out block of each row (n,) and its fold (n,): periods of time with a random start.

    Without times, or with few blocks, they are sets of sessions.
    """
    count, sessions = int(blocks.max()) + 1, int(index.max()) + 1
    if count >= FOLDS:
        return blocks, (blocks + random.integers(count)) % count * FOLDS // count
    each = min(len(index) // HELD_OUT_ROWS, sessions // HELD_OUT_SESSIONS) // FOLDS
    sets = (random.permutation(sessions) % (FOLDS * max(2, each)))[index]
    return sets, sets % FOLDS


def _held_out(
    rows: Sample, index: Index, blocks: Index, parts: Index, inside: Mask, random: np.random.Generator
) -> Floats:
    """Return the scores of one fold's blocks against the other folds, as standard normal deviates.

    The tails are those of the other folds. The variance of a block's mean is computed around 0, as in the simulation.
    Around the block's own mean it would be too uncertain if there are few sessions.
    """
    others = ~inside
    held = [totals(rows[parts == part], index[parts == part]) for part in np.unique(parts[inside])]
    window = max(2, int(inside.sum()) // len(held))
    tails = _tails(rows[others], index[others], blocks[others], window, FOLD_SIMULATIONS, random)
    variance = totals(rows[others], index[others]).variance
    squares = np.array([(part.mean**2).sum() for part in held])
    scores = squares / (variance + np.array([(part.sums**2).sum() / part.sizes.sum() ** 2 for part in held]))
    deviates: Floats = np.negative(special.ndtri_exp(_log_chance(tails, scores)))
    return deviates
