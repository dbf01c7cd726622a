"""SignalState: the three states of a monitored signal."""

from enum import StrEnum


class SignalState(StrEnum):
    """State of a signal. `unknown` means too little evidence. It is never reported as `ok`."""

    OK = "ok"
    WARN = "warn"
    UNKNOWN = "unknown"
