"""What can go wrong, and the exit code it ends the command with.

EmbedshipError
├── UsageError          2   a wrong path, option or input line
│   └── MissingExtra    2   an optional dependency is not installed
├── GateError           3   measured, and found wanting
├── UnsafeError         4   a file that is tampered with, foreign or unsafe
│   └── MismatchError   4   two artifacts that do not belong together
└── EngineError         1   a device or a runtime failed

Every message names the cause and the cure in one or two sentences.
"""

from __future__ import annotations

from embedship.version import __version__


class EmbedshipError(Exception):
    exit_code = 1


class UsageError(EmbedshipError):
    exit_code = 2


class MissingExtra(UsageError):
    """Names both commands that work: embedship is installed from a checkout or from a wheel, not by its name."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed. It comes with the extra [{extra}]: {install(extra)}")


def install(extra: str) -> str:
    """How to install an extra, for the end of a sentence."""
    return (
        f"pip install -c constraints.txt '.[{extra}]' in a checkout of embedship, or "
        f"pip install './embedship-{__version__}-py3-none-any.whl[{extra}]' with its wheel"
    )


class GateError(EmbedshipError):
    exit_code = 3


class UnsafeError(EmbedshipError):
    exit_code = 4


class MismatchError(UnsafeError):
    pass


class EngineError(EmbedshipError):
    exit_code = 1
