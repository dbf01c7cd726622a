"""Transfer progress on stderr: a bar on a terminal, a line every 10 s in logs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from embedship import terminal

_PAUSE = 10.0  # seconds between two lines of a log


class TransferProgress:
    """Shows the progress of one transfer. Use it as a context manager: the bar is removed at the end."""

    def __init__(self, label: str, console: Console | None = None) -> None:
        self._console = console or terminal.messages()
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(TextColumn(label), *columns, console=self._console, transient=True)
        self._task = self._progress.add_task(label, total=None)
        self._label, self._total, self._completed, self._last_line = label, 0, 0, time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def begin(self, total: int) -> None:
        """Set the number of bytes of the whole transfer."""
        self._total = total
        self._progress.update(self._task, total=total)

    def advance(self, count: int, fetched: bool) -> None:
        """Add `count` bytes that are on the disk. Negative if bytes were discarded. `fetched` is not used here."""
        self._completed += count
        self._progress.update(self._task, completed=self._completed)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= _PAUSE:
            self._last_line = time.monotonic()
            self._console.print(
                f"{self._label}: {self._completed / 1e6:,.0f} of {self._total / 1e6:,.0f} MB", soft_wrap=True
            )
