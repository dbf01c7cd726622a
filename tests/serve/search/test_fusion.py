from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Filter
from embedship.serve.index.effort import SearchEffort
from embedship.serve.search.backend import SearchParams, comparable, searched
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
    ("mode", "k", "asked"),
    [
        (SearchMode.DENSE, 3, {"near": 10}),
        (SearchMode.DENSE, 30, {"near": 30}),
        (SearchMode.KEYWORD, 3, {"worded": 10}),
        (SearchMode.HYBRID, 3, {"near": DEPTH, "worded": DEPTH}),
        (SearchMode.HYBRID, 300, {"near": 300, "worded": 300}),
    ],
)
def test_every_store_asks_as_deep_as_the_mode_needs(mode: SearchMode, k: int, asked: dict[str, int]) -> None:
    depths: dict[str, int] = {}

    def listed(name: str) -> Callable[[int], RankedRows]:
        def hits(depth: int) -> RankedRows:
            depths[name] = depth
            return ranked(7, 3) if name == "near" else ranked(3, 9)

        return hits

    lists = searched(SearchParams(mode), k, listed("near"), listed("worded"), fuse)
    assert depths == asked
    assert lists.best.rows[0, 0] == (7 if mode is SearchMode.DENSE else 3)
    assert lists.fused == ((lists.dense, lists.keyword) if mode is SearchMode.HYBRID else (None, None))


@pytest.mark.parametrize("filter", [None, {}])
def test_only_what_the_index_found_alone_is_comparable(filter: Filter | None) -> None:
    rows = ranked(*range(30))
    found = comparable(SearchParams(filter=filter), rows)
    assert found is not None
    assert found.tolist() == [list(range(10))]
    assert comparable(SearchParams(filter={"kind": "drug"}), rows) is None
    assert comparable(SearchParams(effort=SearchEffort(nprobe=3)), rows) is None
    assert comparable(SearchParams(SearchMode.KEYWORD), None) is None
