"""Has recall fallen? Evidence gathered query by query, with a promised number of queries between false alarms."""

import numpy as np

from embedship.monitor.errors import InvalidSetting

RUN_LENGTH = 100_000  # queries between false alarms, on average and at least
LEAST_MISS = 0.005  # a baseline closer to 0 would make a single miss proof of a fall that matters to nobody
SMALLEST, LARGEST, BETS = 0.05, 0.9, 8  # as shares of 1 / b: from a slow fall to a collapse


class Cusum:
    """Sequential evidence that the mean miss of queries, 1 - recall in [0, 1], is above a baseline b.

    A mixture of Shiryaev-Roberts e-detectors (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for
    sequential change detection", New England J. Stat. Data Sci. 2, 2024), one for each bet w on each miss x:

        M_t = (M_{t-1} + 1) * (1 + w (x_t - b)),   0 < w < 1 / b,   alarm while mean over w of M_t >= A

    While the expected miss of a query, given the past, is at most b, the average run length to a false alarm is at
    least A, whatever the distribution of misses: nothing has to be known but its mean. The slots of one query fail
    together, so the query is the unit.

    M_t is held at 10 A, which only delays alarms: it falls again soon after recall has recovered.

    >>> cusum = Cusum(baseline=0.97)
    >>> cusum.update(0.5); cusum.alarm
    False
    """

    def __init__(self, baseline: float, run_length: float = RUN_LENGTH) -> None:
        """Take the recall that is normal, in (0, 1], and the average run length in queries."""
        if not 0 < baseline <= 1:
            raise InvalidSetting("baseline", baseline, "a recall above 0, at most 1")
        if run_length < 1:
            raise InvalidSetting("run_length", run_length, "at least 1 query")
        self.baseline = baseline
        self.run_length = run_length
        self._miss = max(1 - baseline, LEAST_MISS)
        self._bets = np.geomspace(SMALLEST, LARGEST, BETS) / self._miss
        self.evidences = np.zeros(BETS)  # M of each bet: all there is to remember

    def update(self, recall: float) -> None:
        """Add the recall of one query."""
        growth = 1 + self._bets * (1 - recall - self._miss)
        self.evidences = np.minimum((self.evidences + 1) * growth, 10 * self.run_length)

    @property
    def evidence(self) -> float:
        return float(self.evidences.mean())

    @property
    def alarm(self) -> bool:
        return self.evidence >= self.run_length
