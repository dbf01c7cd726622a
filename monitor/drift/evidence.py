"""DriftEvidence: topics gained and lost, dimensions that shifted, and the queries furthest from the reference.

The drift test says that queries changed. The evidence shows what changed; it does not affect the state. Pure functions.
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.drift.window import QueryWindow
from embedship.monitor.statistics import Floats, Mask, ks_statistic

CLUSTERS = 16
ROWS_A_CLUSTER = 25  # with fewer reference queries per cluster, its share is mostly chance
LLOYD = 20  # iterations
DIMENSIONS = 10
FAR = 0.99  # a query is far if this share of the reference queries in its cluster are nearer to the centre
FOLDS = 4  # parts of the reference, each compared with the others: the share of far queries without drift

Rows = NDArray[np.float32]


class QueryTopic(msgspec.Struct, frozen=True):
    """A cluster of the reference's queries: its share of the reference (then) and of the recent queries (now)."""

    cluster: int
    then: float
    now: float


class DimensionShift(msgspec.Struct, frozen=True):
    """A dimension of the embedding: KS distance D, and shift of the mean in standard deviations, signed."""

    dimension: int
    statistic: float
    shift: float


class DriftedQuery(msgspec.Struct, frozen=True):
    """A query far from the reference. `id` is a hash of its vector: the same query has the same id."""

    id: str
    distance: float  # 1 - cosine to the nearest query of the reference
    at: str  # ISO 8601
    text: str | None = None  # only if the operator enabled keeping texts


class DriftEvidence(msgspec.Struct, frozen=True):
    """What changed in recent queries.

    `gained`, `lost`: the topics whose share changed most. `far`: the share of queries that belong to no topic.
    """

    gained: tuple[QueryTopic, ...] = ()
    lost: tuple[QueryTopic, ...] = ()
    far: QueryTopic | None = None
    dimensions: tuple[DimensionShift, ...] = ()
    queries: tuple[DriftedQuery, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceClusters:
    """The prepared reference. `fit` takes 0.2 s for 2,000 x 384. Each comparison of 1,000 queries then takes 3 ms."""

    vectors: Rows
    centres: Rows
    shares: Floats
    radii: Floats  # of each cluster: the FAR quantile of the distances of its own queries
    mean: Floats
    deviation: Floats
    usual: float = 0.0  # the share of far queries without drift

    @classmethod
    def fit(cls, vectors: Rows) -> Self:
        """Cluster the vectors (n, d) of a reference with k-means++ and Lloyd's algorithm, seeded.

        The share of new queries that count as far is higher than 1 - FAR even without drift, because the radii are
        learned from few queries. The actual share is measured on held-out parts of the reference.
        """
        order = np.random.default_rng(0).permutation(len(vectors))
        folds = [np.sort(rows) for rows in np.array_split(order, FOLDS) if 0 < len(rows) < len(vectors)]
        far = [cls._clustered(np.delete(vectors, rows, axis=0)).far(vectors[rows]) for rows in folds]
        usual = float(np.concatenate(far).mean()) if far else 0.0
        return replace(cls._clustered(vectors), usual=usual)

    @classmethod
    def _clustered(cls, vectors: Rows) -> Self:
        k = max(1, min(CLUSTERS, len(vectors) // ROWS_A_CLUSTER))
        centres = _lloyd(vectors, vectors[_kmeans_plus_plus(vectors, k)])
        labels, distances = _nearest(vectors, centres)
        radii = [np.quantile(distances[labels == i], FAR) if (labels == i).any() else 0.0 for i in range(k)]
        return cls(
            vectors=vectors,
            centres=centres,
            shares=np.bincount(labels, minlength=k) / len(vectors),
            radii=np.array(radii),
            mean=vectors.mean(axis=0, dtype=np.float64),
            deviation=np.maximum(vectors.std(axis=0, dtype=np.float64), 1e-12),
        )

    def compare(self, window: QueryWindow, queries: int = 0) -> DriftEvidence:
        """Return what changed, and the `queries` furthest queries.

        Finding the furthest queries takes 30 ms for 1,000 queries and 2,000 reference vectors.
        """
        labels, distances = _nearest(window.vectors, self.centres)
        now = np.bincount(labels, minlength=len(self.centres)) / len(window)
        moved = now - self.shares
        topics = [QueryTopic(i, float(self.shares[i]), float(now[i])) for i in range(len(now))]
        order = np.argsort(-moved)
        return DriftEvidence(
            gained=tuple(topics[i] for i in order[:3] if moved[i] > 0),
            lost=tuple(topics[i] for i in order[::-1][:3] if moved[i] < 0),
            far=QueryTopic(-1, self.usual, float((distances > self.radii[labels]).mean())),
            dimensions=self._dimensions(window.vectors),
            queries=self._furthest(window, queries),
        )

    def far(self, vectors: Rows) -> Mask:
        """Return which of these queries (n, d) belong to no topic of the reference: (n,)."""
        labels, distances = _nearest(vectors, self.centres)
        return distances > self.radii[labels]

    def _dimensions(self, current: Rows) -> tuple[DimensionShift, ...]:
        shift = (current.mean(axis=0, dtype=np.float64) - self.mean) / self.deviation
        most = np.argsort(-np.abs(shift))[:DIMENSIONS]
        statistic = ks_statistic(self.vectors[:, most], current[:, most])
        return tuple(DimensionShift(int(i), float(d), float(shift[i])) for i, d in zip(most, statistic, strict=True))

    def _furthest(self, window: QueryWindow, count: int) -> tuple[DriftedQuery, ...]:
        if not count:
            return ()
        similarity = (_unit(window.vectors) @ _unit(self.vectors).T).max(axis=1)
        furthest: dict[str, DriftedQuery] = {}
        for i in np.argsort(similarity, kind="stable"):
            each = DriftedQuery(
                _id(window.vectors[i]), float(1 - similarity[i]), _iso_time(window.times[i]), window.texts[i]
            )
            furthest.setdefault(each.id, each)
            if len(furthest) == count:
                break
        return tuple(furthest.values())


def _nearest(vectors: Rows, centres: Rows) -> tuple[NDArray[np.intp], Floats]:
    """Return the nearest centre of each row and the distance to it."""
    squared = (vectors**2).sum(1)[:, None] - 2 * vectors @ centres.T + (centres**2).sum(1)
    labels = squared.argmin(axis=1)
    return labels, np.sqrt(np.maximum(squared[np.arange(len(vectors)), labels], 0)).astype(np.float64)


def _lloyd(vectors: Rows, centres: Rows) -> Rows:
    """Lloyd's algorithm. A centre that loses all its rows stays where it is."""
    for _ in range(LLOYD):
        labels, _ = _nearest(vectors, centres)
        belongs = labels == np.arange(len(centres))[:, None]  # (k, n)
        sums = belongs.astype(np.float32) @ vectors
        counts = belongs.sum(axis=1, keepdims=True)
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
    return centres


def _kmeans_plus_plus(vectors: Rows, k: int) -> NDArray[np.intp]:
    """k-means++ (Arthur and Vassilvitskii, SODA 2007): rows far from the chosen centres are drawn more often."""
    random = np.random.default_rng(0)
    chosen = [int(random.integers(len(vectors)))]
    nearest = ((vectors - vectors[chosen[0]]) ** 2).sum(1, dtype=np.float64)
    while len(chosen) < k:
        total = nearest.sum()
        share = nearest / total if total > 0 else None
        chosen.append(int(random.choice(len(vectors), p=share)))
        nearest = np.minimum(nearest, ((vectors - vectors[chosen[-1]]) ** 2).sum(1, dtype=np.float64))
    return np.array(chosen)


def _unit(vectors: Rows) -> Rows:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def _id(vector: Rows) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector).tobytes()).hexdigest()[:12]


def _iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec="seconds")
