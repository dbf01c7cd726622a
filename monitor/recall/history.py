"""Recall over time, from a log of judged queries: windows with their intervals, and where an alarm would have come."""

import msgspec
import numpy as np

from embedship.monitor.drift.calibration import Times
from embedship.monitor.recall.cusum import Cusum
from embedship.monitor.recall.rolling import FALL, LEAST_BASELINE
from embedship.monitor.recall.score import K
from embedship.monitor.statistics import Floats, recall_interval

WINDOW = 100
FIRST = 5  # windows that the baseline is learned from, if none is given


class RecallWindow(msgspec.Struct, frozen=True):
    """Mean recall of one window of queries, with its 95% interval; `at` is the Unix time of its last query."""

    at: float
    mean: float
    lower: float
    upper: float


class RecallHistory(msgspec.Struct, frozen=True):
    """alarms: Unix times at which the cusum alarmed, `ninety_percent` those of the users' rule.

    Where the log has no times they are numbers of queries, from 0.
    """

    baseline: float
    stretches: tuple[RecallWindow, ...]
    alarms: tuple[float, ...]
    ninety_percent: tuple[float, ...]


def needed(baseline: float | None) -> int:
    """How many judged queries `course` wants."""
    return (2 if baseline is not None else FIRST + 2) * WINDOW


def course(recalls: Floats, times: Times, baseline: float | None = None) -> RecallHistory | None:
    """Follow per-query recalls (n,) in [0, 1] at Unix times (n,), ascending; a NaN was not judged.

    Without a baseline the first five windows are taken for normal, and their lower bound by the cusum, as the server
    does. None with fewer than two windows to show, or nothing beyond what the baseline is learned from.
    """
    judged = ~np.isnan(recalls)
    recalls, times = recalls[judged], times[judged]
    learned = 0 if baseline is not None else FIRST * WINDOW
    if len(recalls) < needed(baseline):
        return None
    stretches = tuple(
        _stretch(recalls[end - WINDOW : end], float(times[end - 1])) for end in range(WINDOW, len(recalls) + 1, WINDOW)
    )
    normal = baseline
    if baseline is None:
        baseline = float(recalls[:learned].mean())
        normal = max(recall_interval(recalls[:learned], K).lower, LEAST_BASELINE)
    return RecallHistory(
        baseline=baseline,
        stretches=stretches,
        alarms=_alarms(recalls[learned:], times[learned:], normal or baseline),
        ninety_percent=_below(stretches, FALL * baseline, learned // WINDOW),
    )


def _stretch(recalls: Floats, at: float) -> RecallWindow:
    interval = recall_interval(recalls, K)
    return RecallWindow(at, float(recalls.mean()), interval.lower, interval.upper)


def _alarms(recalls: Floats, times: Times, normal: float) -> tuple[float, ...]:
    """The first query of each run of alarms; the cusum goes on, so a lasting fall is one run."""
    cusum, found, before = Cusum(normal), [], False
    for recall, at in zip(recalls.tolist(), times.tolist(), strict=True):
        cusum.update(recall)
        if cusum.alarm and not before:
            found.append(at)
        before = cusum.alarm
    return tuple(found)


def _below(stretches: tuple[RecallWindow, ...], limit: float, learned: int) -> tuple[float, ...]:
    """Where a run begins of five windows whose mean is below the limit."""
    means = np.array([each.mean for each in stretches])
    ends = range(max(FIRST, learned + 1), len(means) + 1)
    low = [means[end - FIRST : end].mean() < limit for end in ends]
    return tuple(
        stretches[end - 1].at for end, now, before in zip(ends, low, [False, *low], strict=False) if now and not before
    )
