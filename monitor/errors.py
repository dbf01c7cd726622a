"""Errors of the monitor.

MonitorError
├── InvalidSetting        a setting outside its allowed range
├── InvalidVectors        vectors with a wrong shape or with values that are not finite
├── ReferenceUnreadable   a drift reference file that is missing, damaged or of another kind
├── ReferenceMismatch     a drift reference of another model
└── SnapshotUnreadable    a saved monitor state that is damaged
    └── SnapshotMismatch  a saved monitor state of another model
"""


class MonitorError(Exception):
    """Base class. The message says what is wrong and what to do."""


class InvalidSetting(MonitorError, ValueError):
    """A setting is outside its allowed range."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name}={value!r} is not allowed: give {allowed}")


class InvalidVectors(MonitorError, ValueError):
    """Vectors have a wrong shape or contain values that are not finite."""


class ReferenceUnreadable(MonitorError):
    """The file is missing, damaged, or not a drift reference."""


class ReferenceMismatch(MonitorError):
    """The reference was fitted on the vectors of another model."""


class SnapshotUnreadable(MonitorError):
    """The saved monitor state cannot be used: it is damaged or belongs to another model."""


class SnapshotMismatch(SnapshotUnreadable):
    """The saved monitor state belongs to another model."""
