"""The progress bar of the index commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from embedship.serve.indexing.build import BuildStep


class IndexProgress:
    """Progress on stderr: one line a step, with texts a second."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
        rate = TextColumn("{task.fields[rate]}")
        self._progress = Progress(*columns, rate, TimeRemainingColumn(), console=Console(stderr=True))
        self._tasks: dict[BuildStep, TaskID] = {}

    def show(self, step: BuildStep, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=None, rate="")
        task = self._progress.tasks[self._tasks[step]]
        rate = f"{done / task.elapsed:,.0f} texts/s" if 0 < done < total and task.elapsed else task.fields["rate"]
        self._progress.update(task.id, completed=done, total=total or None, rate=rate)

    def __enter__(self) -> IndexProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
