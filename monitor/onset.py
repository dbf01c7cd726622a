"""When did it begin?"""

import msgspec


class StateSince(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: str
    at: float  # Unix time


class StateTimer:
    """Since when a value has been what it is; a value that says nothing interrupts without ending a run.

    A restarted server knows nothing for its first half minute, and what it then finds is not new for that.

    >>> onset = Onset("unknown")
    >>> [onset.since(value, at) for value, at in [("warn", 1.0), ("unknown", 2.0), ("warn", 3.0), ("ok", 4.0)]]
    [1.0, 2.0, 1.0, 4.0]
    """

    def __init__(self, nothing: str, began: StateSince | None = None) -> None:
        self._nothing = nothing
        self.began = began  # of the last value that says something
        self._lost: float | None = None

    def since(self, value: str, now: float) -> float:
        if value == self._nothing:
            self._lost = now if self._lost is None else self._lost
            return self._lost
        self._lost = None
        if self.began is None or self.began.value != value:
            self.began = StateSince(str(value), now)
        return self.began.at
