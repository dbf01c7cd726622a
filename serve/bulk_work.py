"""The jobs of a run whose encoders may be lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from embedship.errors import EngineError
from embedship.serve.bulk_shards import Job

_LOSSES = 4  # a job that ended so many encoders is at fault itself


class Work:
    """Jobs to hand out: first those that came back."""

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs = jobs
        self._back: deque[Job] = deque()
        self._losses: Counter[int] = Counter()
        self._next = next(jobs, None)

    def __bool__(self) -> bool:
        return bool(self._back) or self._next is not None

    def take(self) -> Job:
        if self._back:
            return self._back.popleft()
        assert self._next is not None
        job, self._next = self._next, next(self._jobs, None)
        return job

    def lost(self, job: Job) -> None:
        """Its encoder is gone. Raises EngineError for a job that ends one encoder after the other."""
        self._losses[job.number] += 1
        if self._losses[job.number] == _LOSSES:
            last = job.first + len(job.texts) - 1
            raise EngineError(
                f"texts {job.first} to {last} ended {_LOSSES} encoders, one after the other: has a node the memory for "
                "them? Fewer --shard-texts need less. What is encoded stays"
            )
        self._back.append(job)
