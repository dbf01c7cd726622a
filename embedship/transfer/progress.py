"""How far a transfer is, on stderr: a bar for people, a line now and then for logs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_PAUSE = 10.0  # seconds between two lines of a log


class TransferProgress:
    """A context: the bar is gone when it ends."""

    def __init__(self, what: str, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(TextColumn(what), *columns, console=self._console, transient=True)
        self._task = self._progress.add_task(what, total=None)
        self._what, self._total, self._had, self._said = what, 0, 0, time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def begin(self, total: int) -> None:
        self._total = total
        self._progress.update(self._task, total=total)

    def saw(self, count: int, fetched: bool) -> None:
        self._had += count
        self._progress.update(self._task, completed=self._had)
        if not self._console.is_terminal and time.monotonic() - self._said >= _PAUSE:
            self._said = time.monotonic()
            self._console.print(f"{self._what}: {self._had / 1e6:,.0f} of {self._total / 1e6:,.0f} MB", soft_wrap=True)
