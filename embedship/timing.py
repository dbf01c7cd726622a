"""Timed rounds: several variants in turn on the same work, by wall clock and in CPU time of this process."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# With less than this share of its cores the process was held up, if others used this share of the machine meanwhile. A
# round leaves a core idle at its end, so on a quiet machine the share is 0.85 to 1.
_LEAST_SHARE, _OTHERS_SHARE = 0.8, 0.1
_LOGGER = logging.getLogger(__name__)


class ProcessClock:
    """Seconds of three kinds, from the operating system; tests give a clock of their own."""

    def wall(self) -> float:
        return time.perf_counter()

    def cpu(self) -> float:
        """Used by all threads of this process."""
        return time.process_time()

    def machine(self) -> float:
        """Used by everybody on this machine, stolen by its host included; NaN where the system does not say."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            user, nice, system, _, _, irq, softirq, steal = map(int, fields)
        except (OSError, ValueError):
            return float("nan")
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class VariantTiming(NamedTuple):
    """What one variant took for a unit of work, in seconds."""

    wall: float
    cpu: float


Rounds = Mapping[str, Sequence[VariantTiming]]  # variant -> a Timing a round


class VariantTimer:
    """Times work of variants by name. A variant whose work raises is dropped and kept in `failed`; `required` is not:
    its exception is raised."""

    def __init__(self, names: Sequence[str], required: str, streams: int, clock: ProcessClock) -> None:
        self.names, self.failed = list(names), dict[str, Exception]()
        self._required, self._streams, self._clock = required, streams, clock
        self._wall = self._cpu = self._machine = 0.0

    def round(self, work: Callable[[str], object], units: float = 1.0) -> dict[str, VariantTiming]:
        """Let every variant do its work once, in turn."""
        found = {}
        for name in list(self.names):
            try:
                timing = self._time(name, work)
            except Exception as error:  # runtimes raise whatever they like
                if name == self._required:
                    raise
                self.failed[name] = error
                self.names.remove(name)
            else:
                found[name] = VariantTiming(timing.wall / units, timing.cpu / units)
        return found

    def _time(self, name: str, work: Callable[[str], object]) -> VariantTiming:
        clock = self._clock
        wall, cpu, machine = clock.wall(), clock.cpu(), clock.machine()
        work(name)
        timing = VariantTiming(clock.wall() - wall, clock.cpu() - cpu)
        self._wall += timing.wall
        self._cpu += timing.cpu
        self._machine += clock.machine() - machine
        return timing

    def forget(self) -> None:
        """Leave out of `busy` what was timed so far: warm-up waits for the disk and for compilers."""
        self._wall = self._cpu = self._machine = 0.0

    @property
    def busy(self) -> bool:
        """Whether this process was held up while it was timed; where /proc/stat is not there, its own share decides."""
        if not self._wall or self._cpu >= _LEAST_SHARE * self._wall * self._streams:
            return False
        others = self._machine - self._cpu
        return not others < _OTHERS_SHARE * self._wall * (os.cpu_count() or 1)

    def together(self, rounds: Sequence[Mapping[str, VariantTiming]]) -> dict[str, list[VariantTiming]]:
        """By variant, of those that have not failed."""
        return {name: [each[name] for each in rounds] for name in self.names}


def faster(ours: Sequence[float], theirs: Sequence[float], gain: float) -> bool:
    """Whether rounds of `ours` beat those of `theirs` beyond the noise: `gain` times in the median, and each round; of
    five or more rounds one may go the other way."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=False))
    return statistics.median(ratios) >= gain and ratios[len(ratios) // 5] > 1


def spread(seconds: Sequence[float]) -> float:
    """How far the rounds lie apart: the slowest minus the fastest, as a share of the median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)
