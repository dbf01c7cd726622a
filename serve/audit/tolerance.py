"""Tolerance: how far a vector may be from the right one, given the bundle's floors and the server's own precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedship.bundle import BundleManifest, ParityFloors, Precision
from embedship.golden_texts import ALONE_FLOOR

Floats = npt.NDArray[np.float64]

# A distance is 1 minus the cosine. A vector is wrong, even if its cosine is above the floor, if its distance is more
# than _FACTOR times that of ordinary texts, and more than _LEAST.
_FACTOR = 100.0
_LEAST = 1e-3
# Another recipe explains a vector if its distance is at least this many times smaller than that of the right recipe.
_NEARER = 3.0
_EXACT = 1e-5  # usual distance between the float32 vectors of two runtimes
# Share of the ordinary texts, nearest first, that `noise` covers. The others may have other faults, such as a wrong
# shape.
_MOST = 0.8
_SHORT_TOKENS = 10  # the bundle's floor for short texts is for 8 tokens plus the special tokens


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits of one audit. `noise`: 4 in 5 ordinary texts are at most this distance from their right vectors."""

    floors: ParityFloors
    noise: float
    precision: Precision | None

    @classmethod
    def measure(cls, manifest: BundleManifest, required: Precision, cosines: Floats) -> Tolerance:
        """Return the tolerance for a server whose ordinary texts have these cosines."""
        distances = np.sort(np.nan_to_num(1 - cosines, nan=2.0))
        noise = float(max(distances[int(_MOST * (len(distances) - 1))], 0.0))
        order = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16, Precision.INT8)
        fitting = (each for each in order if each in manifest.floors and 1 - noise >= manifest.floors[each].minimum)
        return cls(manifest.floors[required], noise, next(fitting, None))

    @property
    def fits(self) -> bool:
        """Whether most ordinary texts are as exact as required."""
        return 1 - self.noise >= self.floors.minimum

    def floor(self, tokens: int) -> float:
        """Return the lowest cosine at which a text of `tokens` tokens is right."""
        least = self.floors.minimum
        if tokens <= _SHORT_TOKENS and self.floors.short is not None:
            least = min(least, self.floors.short)
        return max(least, 1 - max(_FACTOR * self.noise, _LEAST))

    @property
    def conspicuous(self) -> float:
        """The cosine below which the audit looks for an explanation, even if the text is right."""
        return 1 - max(_NEARER * self.noise, 2 * _EXACT)

    @property
    def batch_floor(self) -> float:
        """The lowest cosine between a text alone and in a batch. Dynamic int8 depends on the batch by design."""
        return self.floors.minimum if self.precision is Precision.INT8 else ALONE_FLOOR

    def explains(self, expected: Floats, other: Floats) -> bool:
        """Return whether another recipe explains all vectors.

        `expected`: cosines to the right recipe, (n,). `other`: cosines to the other recipe, (n,).
        """
        if not np.isfinite(other).all():
            return False
        near, far = 1 - other, np.nan_to_num(1 - expected, nan=2.0)
        allowed = max(2 * self.noise, _EXACT)
        return bool((near <= allowed).all() and (far >= _NEARER * np.maximum(near, 0)).all() and far.min() > 2 * _EXACT)
