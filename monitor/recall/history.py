"""Recall over time from a log of judged queries: windows with intervals, and the times at which alarms would fire."""

import msgspec
import numpy as np

from embedship.monitor.drift.calibration import Times
from embedship.monitor.recall.cusum import Cusum
from embedship.monitor.recall.rolling import FALL, LEAST_BASELINE
from embedship.monitor.recall.score import K
from embedship.monitor.statistics import Floats, recall_interval

WINDOW = 100
FIRST = 5  # windows from which the baseline is learned if none is given


class RecallWindow(msgspec.Struct, frozen=True):
    """Mean recall of one window of queries, with its 95% interval; `at` is the Unix time of its last query."""

    at: float
    mean: float
    lower: float
    upper: float


class RecallHistory(msgspec.Struct, frozen=True):
    """Recall windows of a log of judged queries, and the Unix times at which each rule would have raised an alarm.

    `alarms` are the times for the cusum, `ninety_percent` those for a mean of five windows below 90% of the baseline.
    If the log has no times, they are query numbers, starting at 0.
    """

    baseline: float
    stretches: tuple[RecallWindow, ...]
    alarms: tuple[float, ...]
    ninety_percent: tuple[float, ...]


def queries_needed(baseline: float | None) -> int:
    """Return how many judged queries `recall_history` needs."""
    return (2 if baseline is not None else FIRST + 2) * WINDOW


def recall_history(recalls: Floats, times: Times, baseline: float | None = None) -> RecallHistory | None:
    """Follow per-query recalls (n,) in [0, 1] at ascending Unix times (n,). NaN: the query was not judged.

    Without a baseline the first five windows are taken as normal, and the cusum uses the lower end of their interval,
    as in the server. None unless two windows are left after those for the baseline.
    """
    is_judged = ~np.isnan(recalls)
    recalls, times = recalls[is_judged], times[is_judged]
    learned = 0 if baseline is not None else FIRST * WINDOW
    if len(recalls) < queries_needed(baseline):
        return None
    windows = tuple(
        _window(recalls[end - WINDOW : end], float(times[end - 1])) for end in range(WINDOW, len(recalls) + 1, WINDOW)
    )
    normal = baseline
    if baseline is None:
        baseline = float(recalls[:learned].mean())
        normal = max(recall_interval(recalls[:learned], K).lower, LEAST_BASELINE)
    return RecallHistory(
        baseline=baseline,
        stretches=windows,
        alarms=_alarms(recalls[learned:], times[learned:], normal or baseline),
        ninety_percent=_below(windows, FALL * baseline, learned // WINDOW),
    )


def _window(recalls: Floats, at: float) -> RecallWindow:
    interval = recall_interval(recalls, K)
    return RecallWindow(at, float(recalls.mean()), interval.lower, interval.upper)


def _alarms(recalls: Floats, times: Times, normal: float) -> tuple[float, ...]:
    """Return the time of the first query of each run of alarms. The cusum continues, so a lasting fall is one run."""
    cusum, alarms, alarming = Cusum(normal), [], False
    for recall, at in zip(recalls.tolist(), times.tolist(), strict=True):
        cusum.update(recall)
        if cusum.alarm and not alarming:
            alarms.append(at)
        alarming = cusum.alarm
    return tuple(alarms)


def _below(windows: tuple[RecallWindow, ...], limit: float, learned: int) -> tuple[float, ...]:
    """Return the times at which the mean of five windows falls below the limit: the first time of each run."""
    means = np.array([each.mean for each in windows])
    ends = range(max(FIRST, learned + 1), len(means) + 1)
    low = [means[end - FIRST : end].mean() < limit for end in ends]
    return tuple(
        windows[end - 1].at for end, now, before in zip(ends, low, [False, *low], strict=False) if now and not before
    )
