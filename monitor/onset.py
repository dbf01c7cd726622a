"""StateTimer: records since when a state has held."""

import msgspec


class StateSince(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state and the Unix time since which it has held."""

    value: str
    at: float  # Unix time


class StateTimer:
    """Tracks since when a state has held. The state `unknown` pauses the timer but does not reset it.

    A restarted server knows nothing for the first half minute. A warning that was there before the restart must not
    look new afterwards.

    >>> timer = StateTimer("unknown")
    >>> [timer.since(value, at) for value, at in [("warn", 1.0), ("unknown", 2.0), ("warn", 3.0), ("ok", 4.0)]]
    [1.0, 2.0, 1.0, 4.0]
    """

    def __init__(self, unknown: str, began: StateSince | None = None) -> None:
        self._unknown = unknown
        self.began = began  # of the last state that was not `unknown`
        self._unknown_since: float | None = None

    def since(self, value: str, now: float) -> float:
        """Record the state at Unix time `now` and return the Unix time since which it has held."""
        if value == self._unknown:
            self._unknown_since = now if self._unknown_since is None else self._unknown_since
            return self._unknown_since
        self._unknown_since = None
        if self.began is None or self.began.value != value:
            self.began = StateSince(str(value), now)
        return self.began.at
