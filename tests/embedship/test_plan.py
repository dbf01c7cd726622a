from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedship.plan import pad, plan

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(LENGTHS, st.integers(1, 2000))
def test_every_row_once_and_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = list(plan(lengths, budget))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget


@given(LENGTHS, st.integers(1, 2000))
def test_longest_first(lengths: list[int], budget: int) -> None:
    flat = [lengths[row] for group in plan(lengths, budget) for row in group]
    assert flat == sorted(flat, reverse=True)


def test_padding_of_ragged_text_stays_under_five_percent() -> None:
    lengths = np.random.default_rng(0).gamma(2.0, 40.0, 2000).astype(int).clip(3, 256).tolist()
    padded = sum(len(group) * max(lengths[row] for row in group) for group in plan(lengths))
    assert padded / sum(lengths) <= 1.05


def test_pad_lays_rows_left_aligned_and_masks_the_rest() -> None:
    batch = pad([[5, 6, 7], [8]], pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert len(batch) == 2


def test_a_row_without_tokens_still_has_a_column() -> None:
    assert pad([[]], pad_id=0).input_ids.shape == (1, 1)
