"""ShiftFeatures: maps query vectors to features whose mean is 0 without drift."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedship.monitor.drift.metric import WhiteningMetric
from embedship.monitor.drift.novelty import TINY, Groups, NoveltyWeights
from embedship.monitor.statistics import Sample

# Share of the plain shift in the variance of |mean|^2 without drift. It detects changes in the shares of known topics.
PLAIN = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class ShiftFeatures:
    """Maps vectors x (d,) to features phi(x) (2 d,), whose mean is 0 without drift.

        phi(x) = (a root (w(x) (x - centre) - level), b (x - centre))

    The second half is the plain mean shift. In the first half, new queries have more weight, and directions have the
    weights of the metric. So queries that are far from the reference in the same direction move the mean most.
    |mean of phi|^2 is a maximum mean discrepancy whose kernel is the sum of two linear kernels, one of them weighted
    (Gretton et al., JMLR 13, 2012); a and b give both parts the same standard deviation without drift.

    Another variant can move all queries slightly away from the reference by rounding. All weights then grow slightly.
    This alone is not drift, because the mean of x - centre times a constant stays 0.
    """

    novelty: NoveltyWeights
    centre: NDArray[np.float32]
    metric: WhiteningMetric
    scales: tuple[float, float]

    @classmethod
    def fit(cls, vectors: Sample, groups: Groups) -> Self:
        """Fit on vectors (n, d) of a reference; groups (n,) as for NoveltyWeights.fit."""
        centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        novelty, weights = NoveltyWeights.fit(vectors, groups)
        plain = vectors - centre
        weighted = plain * weights[:, None]
        metric = WhiteningMetric.fit(weighted)
        return cls(novelty, centre, metric, (_scale(metric.apply(weighted)), PLAIN**0.5 * _scale(plain)))

    def apply(self, vectors: Sample) -> Sample:
        """Return phi (m, 2 d) float32 of vectors (m, d) that are not part of the reference."""
        plain = vectors - self.centre
        weighted = plain * self.novelty.weights(vectors)[:, None].astype(np.float32)
        first, second = self.scales
        return np.concatenate([first * self.metric.apply(weighted), second * plain], axis=1).astype(np.float32)


def crossfit(vectors: Sample, folds: NDArray[np.intp], groups: Groups) -> Sample:
    """Return phi (n, 2 d) of vectors (n, d), each fitted on the other folds only; folds and groups (n,).

    A metric makes the rows that it was fitted on look closer together than new rows: by a third with 1,000 rows of 384
    dimensions and a small ridge. A row would also be its own nearest neighbour. So without cross-fitting, the promised
    rate of false alarms would not hold. The mean of a fold is its shift from the others.
    """
    mapped = np.empty((len(vectors), 2 * vectors.shape[1]), dtype=np.float32)
    for fold in np.unique(folds):
        inside = folds == fold
        mapped[inside] = ShiftFeatures.fit(vectors[~inside], groups[~inside]).apply(vectors[inside])
    return mapped


def _scale(rows: Sample) -> float:
    """Return 1 / sqrt(Frobenius norm of the covariance). With it, the variance of |mean|^2 is 2 / n^2 for any rows."""
    centred = rows - rows.mean(axis=0)
    return float(1 / np.sqrt(np.linalg.norm(centred.T @ centred / len(rows)) + TINY))
