"""Likeness of two outputs of a model, on one scale for both tasks: 1 is identical, and the gates' floors apply to it.

For vectors it is the cosine, which is 1 minus half the square of their relative distance. For scores it is 1 minus
half the square of their difference, in units of the standard deviation of the expected scores: a difference of a
quarter of a standard deviation gives 0.97, one of a hundredth gives 0.99995.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedship.bundle import Task
from embedship.codes import Vectors, cosine


def similarity(task: Task, expected: Vectors, actual: Vectors) -> npt.NDArray[np.float64]:
    """Return the likeness of each pair of (n, dim) rows, (n,) float64. NaN in a row gives NaN, which fails every floor.

    Scores are compared in units of the spread of `expected`, so `expected` needs at least two different scores.
    """
    if task is Task.EMBED:
        return cosine(expected, actual)
    expected_scores, actual_scores = (rows[:, 0].astype(np.float64) for rows in (expected, actual))
    return np.maximum(1 - ((actual_scores - expected_scores) / spread(expected)) ** 2 / 2, -1.0)


def spread(scores: Vectors) -> float:
    """Return the standard deviation of (n, 1) scores."""
    return max(float(scores.astype(np.float64).std()), float(np.finfo(np.float32).tiny))


def measure_name(task: Task) -> str:
    """Return the name of the measure for messages."""
    return "cosine" if task is Task.EMBED else "likeness"
