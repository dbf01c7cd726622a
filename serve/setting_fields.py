"""Fields of the server settings: default, help text, panel of `--help` and allowed range."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import Any, NamedTuple


class Panel(StrEnum):
    """Headings under which `embedship serve --help` groups the options."""

    MODEL = "Model and index"
    NETWORK = "Network"
    ACCESS = "Access"
    DOCUMENTS = "Documents"
    RUNTIME = "Runtime"
    LIMITS = "Limits"
    TIMEOUTS = "Timeouts"
    MONITOR = "Monitoring"
    CANDIDATE = "Candidate"
    LOGS = "Logs"


class SettingRange(NamedTuple):
    """Allowed range of a number, both ends included."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{_format_number(self.low)} to {_format_number(self.high)}"


def _format_number(number: float) -> str:
    """Return a number as people write it: 1,048,576 and 0.0001, never 1.04858e+06."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def setting(default: Any, panel: Panel, help: str, low: float | None = None, high: float | None = None) -> Any:
    """Return a dataclass field for Settings; `low` and `high` give the allowed range of a number."""
    allowed = None if low is None or high is None else SettingRange(low, high)
    return dataclasses.field(default=default, metadata={"help": help, "allowed": allowed, "panel": panel})
