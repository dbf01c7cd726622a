"""What is tried after a failure ends, loses no text, and leaves only the guilty one to fail."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest

from embedship.serve.batching.priority_queue import QueuedText
from embedship.serve.batching.retry import DEATHS, BatchJob, jobs_after_device_loss, jobs_after_error


@dataclass
class Owner:
    cancelled: bool = False


def works(texts: int) -> list[QueuedText[Owner]]:
    return [QueuedText(Owner(), row, [row]) for row in range(texts)]


@pytest.mark.parametrize("guilty", [set(), {0}, {7}, {3, 4}, set(range(8))], ids=str)
@pytest.mark.parametrize("next_pieces", [jobs_after_error, jobs_after_device_loss])
def test_only_the_guilty_fail_and_every_text_is_answered_once(next_pieces, guilty):
    waiting, answered, failed, tries = deque([BatchJob(works(8))]), [], [], 0
    while waiting:
        piece, tries = waiting.popleft(), tries + 1
        rows = [work.row for work in piece.works]
        if guilty.isdisjoint(rows):
            answered += rows
        elif pieces := next_pieces(piece):
            waiting.extend(pieces)
        else:
            failed += rows
    assert sorted(failed) == sorted(guilty)
    assert sorted(answered + failed) == list(range(8))
    assert tries <= 2 * 8


def test_one_guilty_text_costs_three_devices():
    piece, deaths = BatchJob(works(8)), 0
    while pieces := jobs_after_device_loss(piece):
        deaths += 1
        piece = next(each for each in pieces if any(work.row == 5 for work in each.works))
    assert deaths + 1 == DEATHS + 1


@pytest.mark.parametrize("after", [jobs_after_error, jobs_after_device_loss])
def test_an_errand_is_tried_nowhere_else(after):
    assert after(BatchJob(works(1), errand="cpu:0")) == ()


def test_texts_that_nobody_waits_for_are_dropped():
    both = works(2)
    both[0].owner.cancelled = True
    assert [work.row for work in BatchJob(both).without_cancelled.works] == [1]
