"""Errors of embedship, and the exit code with which each ends a command.

EmbedshipError
├── UsageError          2   a wrong path, option or input line
│   └── MissingExtra    2   an optional dependency is not installed
├── GateError           3   a measurement did not reach what was demanded
│   └── ShapesError     3   too many batch shapes of a variant have wrong vectors on this machine
├── UnsafeError         4   a file that was changed, belongs elsewhere or is unsafe
│   └── MismatchError   4   two artifacts that do not belong together
└── EngineError         1   a device or a runtime failed

Every message says in one or two sentences what is wrong and what to do.
"""

from __future__ import annotations

from embedship.version import __version__


class EmbedshipError(Exception):
    """Base of all errors that users see. `exit_code` is the exit code of the command."""

    exit_code = 1


class UsageError(EmbedshipError):
    """A wrong path, option or input line."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional dependency is not installed. The message gives both install commands, for a checkout and a wheel."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed. It comes with the extra [{extra}]: {install(extra)}")


def install(extra: str) -> str:
    """Return the commands that install an extra, as the end of a sentence."""
    return (
        f"pip install -c constraints.txt '.[{extra}]' in a checkout of embedship, or "
        f"pip install './embedship-{__version__}-py3-none-any.whl[{extra}]' with its wheel"
    )


class GateError(EmbedshipError):
    """A measurement did not reach what was demanded."""

    exit_code = 3


class ShapesError(GateError):
    """Too many batch shapes of a variant have wrong vectors on this machine. Another variant may be right."""


class UnsafeError(EmbedshipError):
    """A file was changed, belongs elsewhere or is unsafe to open."""

    exit_code = 4


class MismatchError(UnsafeError):
    """Two artifacts do not belong together, such as an index and the bundle of another model."""


class EngineError(EmbedshipError):
    """A device or a runtime failed."""

    exit_code = 1
