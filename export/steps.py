"""StepTimer: one line on stderr per step of an export, with its duration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from embedship import terminal


class StepTimer:
    """Prints and times steps. `seconds` has the duration of each step, in order."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or terminal.messages()
        self.seconds: dict[str, float] = {}

    def print_line(self, line: str) -> None:
        """Print a line between the steps."""
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show `name` while the block runs, and print a line when it has succeeded."""
        started = time.perf_counter()
        with self._console.status(name):
            yield
        self.seconds[name] = time.perf_counter() - started
        self._console.print(Text.assemble(name, (f" {self.seconds[name]:.1f} s", "dim")))
