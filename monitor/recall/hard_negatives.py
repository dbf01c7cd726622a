"""Chooses hard negatives for training: documents that look like the answer but are wrong. Pure functions."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

# Two documents with this cosine say the same: copies, or two versions of one document.
SAME = 0.95

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


def hard_negatives(
    rows: Rows, vectors: Vectors, relevant: Collection[int], answers: Vectors, count: int, same: float = SAME
) -> list[int]:
    """Return at most `count` of the rows (c,) that a search found, best first, to be used as negatives.

    vectors (c, d) belong to the rows, answers (p, d) to the relevant documents; all have length 1. Relevant rows are
    skipped. Rows with a cosine of `same` or more to an answer are skipped as well: they are probably correct although
    nobody labelled them, and such false negatives harm training (Moreira et al., "NV-Retriever", arXiv 2407.15831,
    2024). If several wrong documents say the same, only the first is used.

    >>> unit = np.array([[1, 0, 0], [0.99, 0.14, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    >>> hard_negatives(np.array([7, 3, 5, 9]), unit, {7}, unit[:1], count=1)
    [5]
    """
    negatives: list[int] = []
    known = answers
    for row, vector in zip(rows.tolist(), vectors, strict=True):
        if len(negatives) == count:
            break
        if row not in relevant and not (known @ vector >= same).any():
            negatives.append(row)
            known = np.concatenate([known, vector[None]])
    return negatives
