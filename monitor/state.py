"""The three answers a monitor can give."""

from enum import StrEnum


class SignalState(StrEnum):
    """`unknown` means too little evidence. It is never folded into `ok`: silence proves nothing."""

    OK = "ok"
    WARN = "warn"
    UNKNOWN = "unknown"
