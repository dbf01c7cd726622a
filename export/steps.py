"""One line on stderr for each step of an export: what is being done, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class StepTimer:
    """`seconds` keeps what each step took, in order."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self.seconds: dict[str, float] = {}

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` while it runs; a line stays behind when it has succeeded."""
        started = time.perf_counter()
        with self._console.status(what):
            yield
        self.seconds[what] = time.perf_counter() - started
        self._console.print(f"{what} [dim]{self.seconds[what]:.1f} s[/]")

    def note(self, sentence: str) -> None:
        """A line between the steps."""
        self._console.print(sentence, soft_wrap=True, markup=False)
