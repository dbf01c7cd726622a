"""Hysteresis: a warning begins at once and ends only when there is evidence that its cause is gone."""


class WarningLatch:
    """`held` is whether the warning lasts. It ends after `calm` observations in a row that show recovery.

    An observation that neither warns nor shows recovery ends nothing: at a limit, chance alone moves a measurement from
    one side to the other, and a state that follows it cannot be acted on.

    >>> latch = Latch(calm=2)
    >>> [latch.update(*seen) for seen in [(True, False), (False, True), (False, False), (False, True), (False, True)]]
    [True, True, True, True, False]
    """

    def __init__(self, calm: int = 1, held: bool = False) -> None:
        self.held = held
        self._needed = calm
        self._calm = 0

    def update(self, warns: bool, recovered: bool) -> bool:
        """Take one observation and return whether the warning lasts."""
        self._calm = self._calm + 1 if recovered and not warns else 0
        self.held = warns or (self.held and self._calm < self._needed)
        return self.held

    def reset(self) -> None:
        """Nothing is known any more."""
        self.held, self._calm = False, 0
