"""What can go wrong in the monitor.

MonitorError
├── InvalidSetting        a setting outside its range
├── InvalidVectors        wrong shape, or not finite
├── ReferenceUnreadable   missing, corrupt, or not a drift reference
├── ReferenceMismatch     a reference of another model
└── SnapshotUnreadable    a snapshot that is damaged
    └── SnapshotMismatch  or of another model
"""


class MonitorError(Exception):
    """Base of every error of this room: the message names the cause and the cure."""


class InvalidSetting(MonitorError, ValueError):
    """A setting is outside its allowed range."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name}={value!r} is not allowed: give {allowed}")


class InvalidVectors(MonitorError, ValueError):
    """Vectors have a wrong shape or hold values that are not finite."""


class ReferenceUnreadable(MonitorError):
    """The file is missing, corrupt, or not a drift reference."""


class ReferenceMismatch(MonitorError):
    """The reference was fitted on the vectors of another model."""


class SnapshotUnreadable(MonitorError):
    """The monitor's state cannot be taken up: it is damaged, or of another model."""


class SnapshotMismatch(SnapshotUnreadable):
    """The monitor's state belongs to another model."""
