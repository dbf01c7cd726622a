from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedship.errors import EngineError
from embedship.serve.bulk.ray_cluster import JobQueue
from embedship.serve.bulk.shards import ShardJob


def jobs(count: int) -> Iterator[ShardJob]:
    for number in range(count):
        yield ShardJob(number, 2 * number, ["a", "b"], [2 * number, 2 * number + 1])


def test_a_job_that_was_lost_goes_out_again_but_not_for_ever() -> None:
    work = JobQueue(jobs(3))
    first = work.take()
    for _ in range(3):
        work.lost(first)
        assert work.take() is first
    with pytest.raises(EngineError, match="texts 0 to 1 ended 4 encoders"):
        work.lost(first)
    assert [work.take().number for _ in range(2)] == [1, 2]
    assert not work
