"""WarningLatch: hysteresis. A warning begins at once and ends only after evidence of recovery."""


class WarningLatch:
    """Keeps a warning until `calm` observations in a row show recovery. `held`: whether the warning lasts.

    An observation that neither warns nor shows recovery does not end the warning. Near a limit a measurement crosses
    it by chance, and nobody can act on a state that follows each crossing.

    >>> latch = WarningLatch(calm=2)
    >>> observations = [(True, False), (False, True), (False, False), (False, True), (False, True)]
    >>> [latch.update(*each) for each in observations]
    [True, True, True, True, False]
    """

    def __init__(self, calm: int = 1, held: bool = False) -> None:
        self.held = held
        self._needed = calm
        self._calm = 0

    def update(self, warns: bool, recovered: bool) -> bool:
        """Record one observation and return whether the warning lasts."""
        self._calm = self._calm + 1 if recovered and not warns else 0
        self.held = warns or (self.held and self._calm < self._needed)
        return self.held

    def reset(self) -> None:
        """Forget the warning and all observations."""
        self.held, self._calm = False, 0
