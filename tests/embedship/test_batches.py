from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedship.batches import BUDGET, PADDING, SLACK, BatchLayout, pad, padded_width, plan

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(LENGTHS, st.integers(1, 2000))
def test_every_row_once_and_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = list(plan(lengths, budget))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        sizes = [lengths[row] for row in group]
        area = len(group) * padded_width(max(sizes))
        beyond = area - sum(map(padded_width, sizes))  # padding beyond that of each text alone
        assert len(group) == 1 or (area <= budget and beyond <= max(SLACK, PADDING * sum(sizes)))
        assert len(group).bit_count() == 1


@given(LENGTHS, st.integers(1, 2000))
def test_longest_first(lengths: list[int], budget: int) -> None:
    flat = [lengths[row] for group in plan(lengths, budget) for row in group]
    assert flat == sorted(flat, reverse=True)


def test_padding_of_ragged_text_stays_under_five_percent() -> None:
    lengths = np.random.default_rng(0).gamma(2.0, 40.0, 2000).astype(int).clip(3, 256).tolist()
    shapes = [(len(group), padded_width(max(lengths[row] for row in group))) for group in plan(lengths)]
    assert sum(rows * width for rows, width in shapes) / sum(lengths) <= 1.05
    assert len(set(shapes)) < 100  # the number of shapes that OpenVINO keeps
    assert sum(lengths) / len(shapes) > 0.5 * BUDGET  # and batches are not tiny


def test_texts_of_a_small_call_are_not_padded_to_its_longest() -> None:
    assert [len(group) for group in plan([200, 198, 14, 14, 12, 11])] == [2, 4]


@given(st.integers(1, 4096))
def test_widths_are_few_and_pad_little(length: int) -> None:
    assert length <= padded_width(length) <= length * (1 + 1 / 8)
    assert padded_width(padded_width(length)) == padded_width(length)


def test_eight_widths_an_octave() -> None:
    assert len({padded_width(length) for length in range(1, 513)}) == 16 + 5 * 8


def test_pad_lays_rows_left_aligned_and_masks_the_rest() -> None:
    batch = pad([[5, 6, 7], [8]], pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert len(batch) == 2


def test_pad_as_wide_as_asked_or_as_needed() -> None:
    assert pad([[5]], 0, 4).input_ids.tolist() == [[5, 0, 0, 0]]
    assert pad([[5, 6, 7]], 0, 2).input_ids.tolist() == [[5, 6, 7]]


def test_a_row_without_tokens_still_has_a_column() -> None:
    assert pad([[]], pad_id=0).input_ids.shape == (1, 1)


def test_a_prompt_that_is_not_pooled_is_marked_in_the_mask() -> None:
    layout = BatchLayout(pad_id=0, positions=8, pools_prompts=False)
    batch = layout.batch([[5, 6, 7, 8], [5, 6, 9], [5]], [2, 2, 0])
    assert batch.turns is None, "they are no token types"
    expected = [[2, 2, 1, 1], [2, 2, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(batch.attention_mask, [*expected, expected[0]])
    np.testing.assert_array_equal(layout.batch([[5, 6]], [0]).attention_mask, [[1, 1]])
