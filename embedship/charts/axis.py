"""Chart axes: map values to pixels, and choose the ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

_TICKS = 5
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_STEPS = tuple(
    [n * _MINUTE for n in (1, 5, 15, 30)]
    + [n * _HOUR for n in (1, 3, 6, 12)]
    + [n * _DAY for n in (1, 2, 7, 14, 30, 90, 365, 3_650)]
)


class AxisTick(NamedTuple):
    """A value on an axis, and its text."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis. `scale` maps a value to a length; `low` and `high` are the lengths at its two ends."""

    title: str
    low: float
    high: float
    ticks: tuple[AxisTick, ...]
    scale: Callable[[float], float] = float

    def place(self, value: float, start: float, end: float) -> float:
        """Return the pixel of a value between `start` (the low end) and `end`."""
        share = (self.scale(value) - self.low) / (self.high - self.low)
        return round(start + share * (end - start), 1)


def even(title: str, values: Iterable[float], from_zero: bool = False) -> Axis:
    """Return a linear axis with round steps that covers all values, with a margin at both ends."""
    every = list(values)
    low, high = (0.0 if from_zero else min(every)), max(every)
    # At least 1e-6 of the highest value: tick texts cannot show smaller differences, so such values share one point.
    margin = max((high - low or abs(high) or 1.0) * 0.12, abs(high) * 1e-6, 1e-300)
    low, high = (low if from_zero else low - margin), high + margin
    step = _round_step((high - low) / _TICKS)
    digits = max(0, -math.floor(math.log10(step)))
    first = math.ceil(low / step)
    values = (round(i * step, digits + 1) for i in range(first, math.floor(high / step) + 1))
    return Axis(title, low, high, tuple(AxisTick(value, f"{value:,.{digits}f}") for value in values))


def _round_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5, 10 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))


def doublings(title: str, values: Iterable[float]) -> Axis:
    """Return a logarithmic axis with ticks at powers of two."""
    logs = [math.log2(value) for value in values]
    low, high = min(logs) - 0.4, max(logs) + 0.4
    powers = range(math.ceil(low), math.floor(high) + 1)
    step = 1 + len(powers) // 8
    return Axis(title, low, high, tuple(AxisTick(2**p, f"{2**p:,}") for p in powers[::step]), math.log2)


def moments(title: str, values: Iterable[float]) -> Axis:
    """Return an axis of Unix times in UTC. Ticks are dates if the step is a day or more, else hours and minutes."""
    every = list(values)
    low, high = min(every), max(every)
    margin = (high - low or _MINUTE) * 0.04
    low, high = low - margin, high + margin
    step = next(step for step in _STEPS if (high - low) / step <= _TICKS)
    form = "%b %d" if step >= _DAY else "%H:%M"
    ticks = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    return Axis(title, low, high, tuple(AxisTick(at, datetime.fromtimestamp(at, UTC).strftime(form)) for at in ticks))
