from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Filter
from embedship.serve.index.effort import SearchEffort
from embedship.serve.search.backend import SearchParams, comparable_rows, run_searches
from embedship.serve.search.fusion import DEPTH, SearchMode, fuse


def ranked(*rows: int) -> RankedRows:
    return RankedRows(np.array([rows]), np.zeros((1, len(rows)), dtype=np.float32))


def test_sums_of_reciprocal_ranks() -> None:
    hits = fuse([ranked(7, 3, 5), ranked(3, 9, -1)], 5)
    assert hits.rows.tolist() == [[3, 7, 9, 5, -1]]
    assert hits.scores[0, :4].tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert hits.scores[0, 4] == -np.inf


def test_of_equal_sums_the_lower_row_and_no_more_than_k() -> None:
    assert fuse([ranked(8, 2), ranked(2, 8)], 1).rows.tolist() == [[2]]


@pytest.mark.parametrize(
    ("mode", "k", "expected"),
    [
        (SearchMode.DENSE, 3, {"vectors": 10}),
        (SearchMode.DENSE, 30, {"vectors": 30}),
        (SearchMode.KEYWORD, 3, {"words": 10}),
        (SearchMode.HYBRID, 3, {"vectors": DEPTH, "words": DEPTH}),
        (SearchMode.HYBRID, 300, {"vectors": 300, "words": 300}),
    ],
)
def test_a_search_is_as_deep_as_its_mode_needs(mode: SearchMode, k: int, expected: dict[str, int]) -> None:
    depths: dict[str, int] = {}

    def recording_search(name: str) -> Callable[[int], RankedRows]:
        def hits(depth: int) -> RankedRows:
            depths[name] = depth
            return ranked(7, 3) if name == "vectors" else ranked(3, 9)

        return hits

    lists = run_searches(SearchParams(mode), k, recording_search("vectors"), recording_search("words"), fuse)
    assert depths == expected
    assert lists.best.rows[0, 0] == (7 if mode is SearchMode.DENSE else 3)
    assert lists.fused == ((lists.dense, lists.keyword) if mode is SearchMode.HYBRID else (None, None))


@pytest.mark.parametrize("filter", [None, {}])
def test_only_plain_vector_results_are_comparable(filter: Filter | None) -> None:
    rows = ranked(*range(30))
    found = comparable_rows(SearchParams(filter=filter), rows)
    assert found is not None
    assert found.tolist() == [list(range(10))]
    assert comparable_rows(SearchParams(filter={"kind": "drug"}), rows) is None
    assert comparable_rows(SearchParams(effort=SearchEffort(nprobe=3)), rows) is None
    assert comparable_rows(SearchParams(SearchMode.KEYWORD), None) is None
