"""Two directions to look along: where queries lie on a sheet of paper. Pure."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class PlaneProjection(NamedTuple):
    """The two directions along which vectors vary most (principal components), and the variance they explain."""

    centre: Vectors
    axes: Vectors
    explained: float

    @classmethod
    def fit(cls, vectors: Vectors) -> Self:
        """Fit on vectors (n, d). The sign of a direction means nothing; it is made the same everywhere."""
        centre = vectors.mean(axis=0)
        _, lengths, axes = np.linalg.svd(vectors - centre, full_matrices=False)
        axes = axes[:2] * np.sign(axes[:2, np.abs(axes[:2]).argmax(axis=1)].diagonal())[:, None]
        total = float((lengths**2).sum())
        return cls(centre, axes.astype(np.float32), float((lengths[:2] ** 2).sum()) / total if total else 1.0)

    def apply(self, vectors: Vectors) -> Vectors:
        """Return the places (n, 2), or (n, 1) where vectors have one dimension, of vectors (n, d)."""
        return np.asarray((vectors - self.centre) @ self.axes.T, dtype=np.float32)
