"""How far the encoding of texts is, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yield what is to be told how many were just finished."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


class ProgressCounter:
    """What a run has encoded, and in how many seconds, beside what it found done. Told from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = time.perf_counter()
        self.total = self.resumed = self.texts = self.tokens = 0
        self.seconds = 0.0

    def found(self, texts: int, done: int) -> None:
        self.total, self.resumed = texts, done
        self._began = time.perf_counter()
        self.show()

    def encoded(self, texts: int, tokens: int) -> None:
        with self._lock:
            self.texts += texts
            self.tokens += tokens
            self.seconds = time.perf_counter() - self._began
            self.show()

    def show(self) -> None:
        """For whoever has something to show it on."""
