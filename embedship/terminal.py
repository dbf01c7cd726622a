"""Terminal output of all commands: results on stdout; progress, warnings and hints on stderr.

Rich markup is off, because it would remove "[optimum]" from a sentence or a path. Use `rich.text.Text` for colours.
"""

from __future__ import annotations

import os
import sys
from enum import IntEnum

from rich.console import Console
from rich.text import Text

# If there is no terminal, Rich assumes 80 columns, and would cut the cells of our tables.
COLUMNS_WITHOUT_TERMINAL = 100


class Verbosity(IntEnum):
    """How much a command prints in addition to its result."""

    QUIET = 0  # errors and warnings
    NORMAL = 1  # also progress and hints
    VERBOSE = 2  # also the log of libraries, and the traceback of an error


class _ProcessState:
    """The verbosity of this process, set once from the command line."""

    verbosity = Verbosity.NORMAL


def set_verbosity(verbosity: Verbosity) -> None:
    """Set the verbosity of this process."""
    _ProcessState.verbosity = verbosity


def verbosity() -> Verbosity:
    """Return the verbosity of this process."""
    return _ProcessState.verbosity


def output() -> Console:
    """Return the console for the result of a command, on stdout."""
    return Console(highlight=False, markup=False, width=_width(sys.stdout.isatty()))


def messages() -> Console:
    """Return the console for progress and hints, on stderr. It prints nothing with --quiet."""
    quiet = verbosity() is Verbosity.QUIET
    return Console(stderr=True, highlight=False, markup=False, quiet=quiet, width=_width(sys.stderr.isatty()))


def print_error(message: str) -> None:
    """Print an error on stderr. The line is not wrapped, so that a search in a log finds it."""
    _print_labelled("error:", "bold red", message)


def warn(message: str) -> None:
    """Print a warning on stderr, even with --quiet."""
    _print_labelled("warning:", "bold yellow", message)


def _print_labelled(label: str, style: str, message: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(Text.assemble((label, style), " ", message))


def _width(terminal: bool) -> int | None:
    """Return the width of a console in columns. None: Rich uses the width of the terminal, or the variable COLUMNS."""
    return None if terminal or os.environ.get("COLUMNS") else COLUMNS_WITHOUT_TERMINAL
