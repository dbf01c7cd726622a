from __future__ import annotations

import numpy as np
import pytest

from embedship.ranking import Hits
from embedship.serve.fusion import fuse


def ranked(*rows: int) -> Hits:
    return Hits(np.array([rows]), np.zeros((1, len(rows)), dtype=np.float32))


def test_sums_of_reciprocal_ranks() -> None:
    hits = fuse([ranked(7, 3, 5), ranked(3, 9, -1)], 5)
    assert hits.rows.tolist() == [[3, 7, 9, 5, -1]]
    assert hits.scores[0, :4].tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert hits.scores[0, 4] == -np.inf


def test_of_equal_sums_the_lower_row_and_no_more_than_k() -> None:
    assert fuse([ranked(8, 2), ranked(2, 8)], 1).rows.tolist() == [[2]]
