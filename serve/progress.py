"""Progress of encoding texts: a bar on stderr, and counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embedship import terminal


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show a progress bar on stderr. Yields a function to call with the number of items just finished."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.messages()) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.advance(task, done)


class ProgressCounter:
    """Counts the texts and tokens that a run encoded, its seconds, and the texts of an earlier run. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = time.perf_counter()
        self.total = self.resumed = self.texts = self.tokens = 0
        self.seconds = 0.0

    def start(self, texts: int, done: int) -> None:
        """Start counting: `done` of `texts` were encoded by an earlier run."""
        self.total, self.resumed = texts, done
        self._began = time.perf_counter()
        self.show()

    def encoded(self, texts: int, tokens: int) -> None:
        """Count texts that were just encoded. Called from several threads."""
        with self._lock:
            self.texts += texts
            self.tokens += tokens
            self.seconds = time.perf_counter() - self._began
            self.show()

    def show(self) -> None:
        """Display the counters; overridden by subclasses that have a display."""
