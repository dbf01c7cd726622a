"""Options that several verbs read alike."""

from __future__ import annotations

from embedship.errors import UsageError
from embedship.monitor.drift.false_alarms import FalseAlarms, interval
from embedship.monitor.errors import InvalidSetting


def parse_false_alarms(text: str) -> FalseAlarms:
    try:
        return FalseAlarms.parse(text)
    except InvalidSetting as error:
        raise UsageError(f"--false-alarms: {error}") from None


def parse_interval(text: str) -> float:
    """Seconds between two tests."""
    try:
        return interval(text)
    except InvalidSetting as error:
        raise UsageError(f"--every: {error}") from None
