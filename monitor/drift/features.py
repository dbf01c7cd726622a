"""What of a query is compared: rows whose mean tells whether the queries are those of the reference."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedship.monitor.drift.metric import WhiteningMetric
from embedship.monitor.drift.novelty import TINY, Groups, NoveltyWeights
from embedship.monitor.statistics import Sample

# Of the variance that |mean|^2 has without drift, from the plain shift: what sees a known topic come and go.
PLAIN = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class ShiftFeatures:
    """phi(x) = (a root (w(x) (x - centre) - level), b (x - centre)): (2 d,), of mean 0 without drift.

    The second half is the plain mean shift. In the first a query counts by how new it is: those far from all that was
    known, if they agree on a direction, move it most; directions count as the metric weighs them. |mean of phi|^2 is a
    maximum mean discrepancy whose kernel is the sum of two linear ones, one of them weighted (Gretton et al., JMLR 13,
    2012), and a and b give both parts the same standard deviation without drift.

    Queries that are all a little further away than they were, as another variant's rounding makes them, all weigh a
    little more, and the mean of x - centre times a constant stays 0: that alone is no drift.
    """

    novelty: NoveltyWeights
    centre: NDArray[np.float32]
    metric: WhiteningMetric
    scales: tuple[float, float]

    @classmethod
    def fit(cls, vectors: Sample, groups: Groups) -> Self:
        """Fit on vectors (n, d) of a reference; groups (n,) as Novelty.fit takes them."""
        centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        novelty, weights = NoveltyWeights.fit(vectors, groups)
        plain = vectors - centre
        weighted = plain * weights[:, None]
        metric = WhiteningMetric.fit(weighted)
        return cls(novelty, centre, metric, (_scale(metric.apply(weighted)), PLAIN**0.5 * _scale(plain)))

    def apply(self, vectors: Sample) -> Sample:
        """Return phi (m, 2 d) float32 of vectors (m, d) that are not of the reference."""
        plain = vectors - self.centre
        weighted = plain * self.novelty.weights(vectors)[:, None].astype(np.float32)
        first, second = self.scales
        return np.concatenate([first * self.metric.apply(weighted), second * plain], axis=1).astype(np.float32)


def crossfit(vectors: Sample, folds: NDArray[np.intp], groups: Groups) -> Sample:
    """Return phi (n, 2 d) of vectors (n, d), each by what was fitted on the other folds only; folds and groups (n,).

    A metric makes the very rows it was fitted on look closer together than new ones, by a third with 1,000 rows of 384
    dimensions and little ridge, and a row is its own nearest neighbour: the promised rate of false alarms would not
    hold. The mean of a fold is its shift from the others.
    """
    mapped = np.empty((len(vectors), 2 * vectors.shape[1]), dtype=np.float32)
    for fold in np.unique(folds):
        inside = folds == fold
        mapped[inside] = ShiftFeatures.fit(vectors[~inside], groups[~inside]).apply(vectors[inside])
    return mapped


def _scale(rows: Sample) -> float:
    """One over the root of the Frobenius norm of the covariance: |mean|^2 then varies by 2 / n^2 whatever the rows."""
    centred = rows - rows.mean(axis=0)
    return float(1 / np.sqrt(np.linalg.norm(centred.T @ centred / len(rows)) + TINY))
