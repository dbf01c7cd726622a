"""Retries end, lose no text, and only the faulty texts fail."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest

from embedship.serve.batching.priority_queue import QueuedText
from embedship.serve.batching.retry import MAX_DEVICE_LOSSES, BatchJob, jobs_after_device_loss, jobs_after_error


@dataclass
class Request:
    cancelled: bool = False


def queued_texts(texts: int) -> list[QueuedText[Request]]:
    return [QueuedText(Request(), row, [row]) for row in range(texts)]


@pytest.mark.parametrize("faulty", [set(), {0}, {7}, {3, 4}, set(range(8))], ids=str)
@pytest.mark.parametrize("next_jobs", [jobs_after_error, jobs_after_device_loss])
def test_only_the_faulty_fail_and_every_text_is_answered_once(next_jobs, faulty):
    waiting, answered, failed, tries = deque([BatchJob(queued_texts(8))]), [], [], 0
    while waiting:
        job, tries = waiting.popleft(), tries + 1
        rows = [text.row for text in job.texts]
        if faulty.isdisjoint(rows):
            answered += rows
        elif jobs := next_jobs(job):
            waiting.extend(jobs)
        else:
            failed += rows
    assert sorted(failed) == sorted(faulty)
    assert sorted(answered + failed) == list(range(8))
    assert tries <= 2 * 8


def test_one_faulty_text_costs_three_device_restarts():
    job, device_losses = BatchJob(queued_texts(8)), 0
    while jobs := jobs_after_device_loss(job):
        device_losses += 1
        job = next(each for each in jobs if any(text.row == 5 for text in each.texts))
    assert device_losses + 1 == MAX_DEVICE_LOSSES + 1


@pytest.mark.parametrize("after", [jobs_after_error, jobs_after_device_loss])
def test_a_pinned_batch_is_never_retried(after):
    assert after(BatchJob(queued_texts(1), pinned_to="cpu:0")) == ()


def test_texts_of_cancelled_requests_are_dropped():
    both = queued_texts(2)
    both[0].request.cancelled = True
    assert [text.row for text in BatchJob(both).without_cancelled.texts] == [1]
