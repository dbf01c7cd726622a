"""FalseAlarms: the budget of false alarms, the one setting for the sensitivity of every alarm."""

import re
from typing import Self

import msgspec

from embedship.monitor.errors import InvalidSetting

DAY_SECONDS = 86_400.0
_UNIT_SECONDS = {"hour": 3_600.0, "day": DAY_SECONDS, "week": 7 * DAY_SECONDS, "month": 30 * DAY_SECONDS}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s+per\s+(?:(\d+(?:\.\d+)?)\s+)?(hour|day|week|month)s?")
_SHORT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": DAY_SECONDS}
_INTERVAL = re.compile(r"(\d+(?:\.\d+)?)\s*(s|seconds?|m|minutes?|h|hours?|d|days?)")


class FalseAlarms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A budget of false alarms: `alarms` per `seconds`.

    >>> round(FalseAlarms.parse("2 per week").per_day, 6)
    0.285714
    """

    alarms: float
    seconds: float

    def __post_init__(self) -> None:
        if not (self.alarms > 0 and self.seconds > 0):
            raise InvalidSetting("false alarms", f"{self.alarms:g} per {self.seconds:,.0f} seconds", "numbers above 0")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "1 per 30 days", "2 per week", "0.5 per day". Raises InvalidSetting."""
        match = _FORM.fullmatch(text.strip().lower())
        if not match:
            raise InvalidSetting("false alarms", text, 'a budget like "1 per 30 days" or "2 per week"')
        alarms, count, unit = match.groups()
        return cls(float(alarms), float(count or 1) * _UNIT_SECONDS[unit])

    @property
    def per_day(self) -> float:
        """False alarms per day."""
        return self.alarms / self.seconds * DAY_SECONDS

    def within(self, seconds: float) -> float:
        """Return the number of false alarms accepted in this many seconds.

        For the seconds between two evaluations, it is the accepted probability of one false alarm.
        """
        return self.alarms / self.seconds * seconds

    def __str__(self) -> str:
        return f"{self.alarms:g} per {self.seconds / DAY_SECONDS:g} days"


def interval(text: str) -> float:
    """Return the seconds of "60s", "5 m", "1h" or "2 days". Raises InvalidSetting.

    >>> interval("5m")
    300.0
    """
    match = _INTERVAL.fullmatch(text.strip().lower())
    if not match or not float(match[1]):
        raise InvalidSetting("interval", text, 'a number above 0 and a unit, like "60s", "5m", "1h" or "1 day"')
    return float(match[1]) * _SHORT_SECONDS[match[2][0]]


DEFAULT = FalseAlarms(1, 30 * DAY_SECONDS)
