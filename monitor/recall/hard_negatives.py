"""Documents that look like the answer and are not: what a re-training learns most from. Pure."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

# At this cosine two documents say the same: a copy, or the next version of one.
SAME = 0.95

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


def hard_negatives(
    rows: Rows, vectors: Vectors, relevant: Collection[int], answers: Vectors, count: int, same: float = SAME
) -> list[int]:
    """Choose at most `count` of the rows (c,) that a search found, best first, to be taught as wrong.

    vectors (c, d) are theirs, answers (p, d) those of the relevant documents, all of unit length. What is relevant is
    left out, and so is what has cosine `same` or more to an answer, for it is most likely right, too, and nobody has
    said so: such false negatives undo a training (Moreira et al., "NV-Retriever", arXiv 2407.15831, 2024). Of several
    wrong documents that say the same the first is taken.

    >>> unit = np.array([[1, 0, 0], [0.99, 0.14, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    >>> hard_negatives(np.array([7, 3, 5, 9]), unit, {7}, unit[:1], count=1)
    [5]
    """
    found: list[int] = []
    known = answers
    for row, vector in zip(rows.tolist(), vectors, strict=True):
        if len(found) == count:
            break
        if row not in relevant and not (known @ vector >= same).any():
            found.append(row)
            known = np.concatenate([known, vector[None]])
    return found
