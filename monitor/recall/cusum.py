"""Cusum: detects a fall of recall from evidence accumulated query by query, with a promised false-alarm rate."""

import numpy as np

from embedship.monitor.errors import InvalidSetting

RUN_LENGTH = 100_000  # mean number of queries between false alarms, at least
LEAST_MISS = 0.005  # lowest normal miss rate: with a lower one, a single miss would be evidence of a negligible fall
SMALLEST, LARGEST, BETS = 0.05, 0.9, 8  # bets as shares of 1 / b: from a slow fall to a collapse


class Cusum:
    """Sequential evidence that the mean miss rate of queries, 1 - recall in [0, 1], is above a baseline b.

    A mixture of Shiryaev-Roberts e-detectors (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for
    sequential change detection", New England J. Stat. Data Sci. 2, 2024), one for each bet w on each miss x:

        M_t = (M_{t-1} + 1) * (1 + w (x_t - b)),   0 < w < 1 / b,   alarm while mean over w of M_t >= A

    While the expected miss of a query, given the past, is at most b, the average run length to a false alarm is at
    least A. This holds for any distribution of misses: only the mean must be known. Each x is the miss of a whole
    query, because the result slots of one query fail together.

    M_t is limited to 10 A, so that it falls soon after recall has recovered. The limit can delay alarms, but it cannot
    cause them.

    >>> cusum = Cusum(baseline=0.97)
    >>> cusum.update(0.5); cusum.alarm
    False
    """

    def __init__(self, baseline: float, run_length: float = RUN_LENGTH) -> None:
        """baseline: the normal recall, in (0, 1]. run_length: mean queries between false alarms."""
        if not 0 < baseline <= 1:
            raise InvalidSetting("baseline", baseline, "a recall above 0, at most 1")
        if run_length < 1:
            raise InvalidSetting("run_length", run_length, "at least 1 query")
        self.baseline = baseline
        self.run_length = run_length
        self._miss = max(1 - baseline, LEAST_MISS)
        self._bets = np.geomspace(SMALLEST, LARGEST, BETS) / self._miss
        self.evidences = np.zeros(BETS)  # M of each bet: the complete state

    def update(self, recall: float) -> None:
        """Add the recall of one query."""
        growth = 1 + self._bets * (1 - recall - self._miss)
        self.evidences = np.minimum((self.evidences + 1) * growth, 10 * self.run_length)

    @property
    def evidence(self) -> float:
        """The mean of M_t over all bets."""
        return float(self.evidences.mean())

    @property
    def alarm(self) -> bool:
        """Whether the evidence has reached the run length."""
        return self.evidence >= self.run_length
