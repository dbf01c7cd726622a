"""Timing: runs several variants in turn on the same work, and measures wall time and CPU time of this process."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# A process was slowed down if it used less than _LEAST_SHARE of its cores while other processes used at least
# _OTHERS_SHARE of the machine. On a quiet machine it uses 0.85 to 1, because cores are idle at the end of a round.
_LEAST_SHARE, _OTHERS_SHARE = 0.8, 0.1
logger = logging.getLogger(__name__)


class ProcessClock:
    """Wall time, CPU time of this process and CPU time of the machine, in seconds. Tests pass another clock."""

    def wall(self) -> float:
        """Return seconds of real time."""
        return time.perf_counter()

    def cpu(self) -> float:
        """Return the CPU seconds used by all threads of this process."""
        return time.process_time()

    def machine(self) -> float:
        """Return the CPU seconds used on this machine, including steal time of its host; NaN if not available."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            user, nice, system, _, _, irq, softirq, steal = map(int, fields)
        except (OSError, ValueError):
            return float("nan")
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class VariantTiming(NamedTuple):
    """Seconds that one variant needed for a unit of work."""

    wall: float
    cpu: float


Rounds = Mapping[str, Sequence[VariantTiming]]  # variant -> one VariantTiming per round


class VariantTimer:
    """Times work of variants by name.

    If the work of a variant raises, the variant is dropped and its exception is stored in `failed`. An exception of the
    variant `required` is raised.
    """

    def __init__(self, names: Sequence[str], required: str, streams: int, clock: ProcessClock) -> None:
        self.names, self.failed = list(names), dict[str, Exception]()
        self._required, self._streams, self._clock = required, streams, clock
        self._wall = self._cpu = self._machine = 0.0

    def round(self, work: Callable[[str], object], units: float = 1.0) -> dict[str, VariantTiming]:
        """Run the work of every variant once, in turn, and return its seconds divided by `units`."""
        timings = {}
        for name in list(self.names):
            try:
                timing = self._time(name, work)
            except Exception as error:  # runtimes raise exceptions of any class
                if name == self._required:
                    raise
                self.failed[name] = error
                self.names.remove(name)
            else:
                timings[name] = VariantTiming(timing.wall / units, timing.cpu / units)
        return timings

    def _time(self, name: str, work: Callable[[str], object]) -> VariantTiming:
        clock = self._clock
        wall, cpu, machine = clock.wall(), clock.cpu(), clock.machine()
        work(name)
        timing = VariantTiming(clock.wall() - wall, clock.cpu() - cpu)
        self._wall += timing.wall
        self._cpu += timing.cpu
        self._machine += clock.machine() - machine
        return timing

    def reset_busy(self) -> None:
        """Exclude what was timed so far from `busy`, because warm-up waits for the disk and for compilers."""
        self._wall = self._cpu = self._machine = 0.0

    @property
    def busy(self) -> bool:
        """Whether others slowed this process down while it was timed. Without /proc/stat, only its own share counts."""
        if not self._wall or self._cpu >= _LEAST_SHARE * self._wall * self._streams:
            return False
        others = self._machine - self._cpu
        return not others < _OTHERS_SHARE * self._wall * (os.cpu_count() or 1)

    def by_variant(self, rounds: Sequence[Mapping[str, VariantTiming]]) -> dict[str, list[VariantTiming]]:
        """Return the rounds of each variant that has not failed."""
        return {name: [each[name] for each in rounds] for name in self.names}


def faster(candidate: Sequence[float], baseline: Sequence[float], gain: float) -> bool:
    """Return whether `candidate` is faster than `baseline` beyond the noise.

    It must be `gain` times faster in the median, and faster in each round; one round in every five may be slower.
    """
    ratios = sorted(b / a for a, b in zip(candidate, baseline, strict=False))
    return statistics.median(ratios) >= gain and ratios[len(ratios) // 5] > 1


def spread(seconds: Sequence[float]) -> float:
    """Return the spread of the rounds: the slowest minus the fastest, as a share of the median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)
