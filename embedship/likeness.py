"""How alike two answers of a model are, on one scale for both tasks: 1 is the same, and the floors of the gates apply.

Vectors are compared by their cosine, which loses half the square of their relative distance. Scores lose half the
square of their difference in units of the spread of the expected ones: a score that is off by a quarter of a standard
deviation has 0.97, by a hundredth 0.99995.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedship.bundle import Task
from embedship.codes import Vectors, cosine


def similarity(task: Task, expected: Vectors, found: Vectors) -> npt.NDArray[np.float64]:
    """(n,) of (n, dim) rows; NaN, which no floor lets through, where one of them is NaN.

    The spread is that of the expected scores here, so they must be more than one and not all of one kind.
    """
    if task is Task.EMBED:
        return cosine(expected, found)
    wanted, given = (rows[:, 0].astype(np.float64) for rows in (expected, found))
    return np.maximum(1 - ((given - wanted) / spread(expected)) ** 2 / 2, -1.0)


def spread(scores: Vectors) -> float:
    """Standard deviation of (n, 1) scores."""
    return max(float(scores.astype(np.float64).std()), float(np.finfo(np.float32).tiny))


def measure(task: Task) -> str:
    """What people call it."""
    return "cosine" if task is Task.EMBED else "likeness"
