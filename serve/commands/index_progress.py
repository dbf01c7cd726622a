"""Progress bar of the index commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from embedship import terminal

if TYPE_CHECKING:
    from embedship.serve.indexing.build import BuildStep


class IndexProgress:
    """Progress bars on stderr: one line per build step, with texts per second."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
        rate = TextColumn("{task.fields[rate]}")
        self._progress = Progress(*columns, rate, TimeRemainingColumn(), console=terminal.messages())
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
