"""Parsers of option values that several commands of this package use."""

from __future__ import annotations

from embedship.errors import UsageError
from embedship.monitor.drift.false_alarms import FalseAlarms, interval
from embedship.monitor.errors import InvalidSetting


def parse_false_alarms(text: str) -> FalseAlarms:
    """Parse the value of --false-alarms, such as "1 per 30 days". Raises UsageError."""
    try:
        return FalseAlarms.parse(text)
    except InvalidSetting as error:
        raise UsageError(f"--false-alarms: {error}") from None


def parse_interval(text: str) -> float:
    """Parse the value of --every, such as "1h". Return the seconds between two drift tests. Raises UsageError."""
    try:
        return interval(text)
    except InvalidSetting as error:
        raise UsageError(f"--every: {error}") from None
