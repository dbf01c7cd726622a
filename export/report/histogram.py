"""CosineHistogram: cosines to the checkpoint as counts, in bins that are even in the number of nines."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from embedship.bundle import ManifestRecord
from embedship.charts.axis import Axis, AxisTick

# The bins are equal for all bundles, so that reports can be compared: float32 is around 1 - 1e-12, bfloat16 around
# 1 - 1e-5, int8 around 1 - 1e-3. On a linear axis all but int8 would be one bar.
MOST_NINES = 8
BINS = 40
_WIDTH = MOST_NINES / BINS


def nines(cosines: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return -log10(1 - cosine): 1 for 0.9, 2 for 0.99. Limited to 0 (cosine <= 0, or NaN) and MOST_NINES."""
    distance = 1 - np.nan_to_num(np.asarray(cosines, dtype=np.float64), nan=0.0)
    return np.asarray(-np.log10(np.clip(distance, 10.0**-MOST_NINES, 1.0)) + 0.0)


class CosineHistogram(ManifestRecord, frozen=True):
    """Number of texts with a cosine between edges[i] and edges[i + 1]. The first and last bin also count the rest."""

    edges: tuple[float, ...]  # BINS + 1 cosines, rising
    counts: tuple[int, ...]

    @classmethod
    def from_cosines(cls, cosines: npt.ArrayLike) -> CosineHistogram:
        """Count the (n,) cosines of a variant."""
        places = np.minimum(np.floor(nines(cosines) / _WIDTH + 1e-9).astype(int), BINS - 1)
        edges = 1 - 10.0 ** -(np.arange(BINS + 1) * _WIDTH)
        return cls(edges=tuple(edges.tolist()), counts=tuple(np.bincount(places, minlength=BINS).tolist()))

    @property
    def texts(self) -> int:
        return sum(self.counts)


def cosine_axis(title: str, worst: float) -> Axis:
    """Return an axis that is even in the number of nines, from the decade of the worst cosine to 1."""
    low = min(math.floor(float(nines(worst))), MOST_NINES - 2)
    ticks = [AxisTick(1 - 10.0**-count, _nines_text(count)) for count in range(low, MOST_NINES + 1)]
    return Axis(title, low, MOST_NINES, tuple(ticks), lambda value: float(nines(value)))


def _nines_text(count: int) -> str:
    return "1" if count == MOST_NINES else f"{1 - 10.0**-count:.{count}f}"
