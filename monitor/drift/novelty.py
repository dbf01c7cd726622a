"""How new is a query? By how far away the nearest queries of the reference are."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from embedship.monitor.statistics import Floats, Sample

NEIGHBOURS = 10
LANDMARKS = 1_000  # 15 ms for 1,000 queries; half of them see as much of 5% of a new topic
MOST = 4.0  # of one query's weight: a stray one must not speak for many
TINY = 1e-30

Groups = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class NoveltyWeights:
    """w(x) = 1 + (h(x) - mean) / deviation, between 0 and MOST; h(x) is the mean distance to the nearest NEIGHBOURS.

    The distance to near neighbours is a density turned over (Loftsgaarden and Quesenberry, Ann. Math. Stat. 36, 1965):
    queries where the reference has few get much weight, those in its midst hardly any. 1 on average without drift.
    """

    landmarks: NDArray[np.float32]
    mean: float
    deviation: float

    @classmethod
    def fit(cls, vectors: Sample, groups: Groups) -> tuple[Self, Floats]:
        """Fit on vectors (n, d); return their own weights (n,), too.

        groups (n,): none of a query's own group is its neighbour. A query of today has none of its session, or of its
        hour, in the reference; if those of the reference had, it would look nearer than today's.
        """
        chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:LANDMARKS])
        known = distances(vectors, vectors[chosen], groups[:, None] == groups[chosen])
        landmarks = np.asarray(vectors[chosen], dtype=np.float32)
        found = cls(landmarks, float(known.mean()), max(float(known.std()), TINY))
        return found, found._weights(known)

    def weights(self, vectors: Sample) -> Floats:
        """Return w (m,) of vectors (m, d) that are not of the reference."""
        return self._weights(distances(vectors, self.landmarks))

    def _weights(self, distance: Floats) -> Floats:
        weights: Floats = np.clip(1 + (distance - self.mean) / self.deviation, 0, MOST)
        return weights


def distances(vectors: Sample, landmarks: Sample, apart: NDArray[np.bool_] | None = None) -> Floats:
    """Return the mean distance of vectors (m, d) to the NEIGHBOURS nearest of landmarks (l, d), (m,).

    apart (m, l): which landmarks do not count for which row. Fewer are taken where there are not so many; 0 if none.
    """
    squares = (landmarks**2).sum(axis=1) - 2 * vectors @ landmarks.T
    if apart is not None:
        squares[apart] = np.inf
    few = min(NEIGHBOURS, len(landmarks))
    nearest = np.partition(squares, few - 1, axis=1)[:, :few] + (vectors**2).sum(axis=1)[:, None]
    counted = np.isfinite(nearest)
    roots = np.sqrt(np.maximum(nearest, 0, where=counted, out=np.zeros(nearest.shape)))
    mean: Floats = roots.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return mean
