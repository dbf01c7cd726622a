"""A sample of live searches, done once more exactly: does the index find what is there?"""

import time
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.cpu_budget import CpuBudget
from embedship.monitor.recall.rolling import Ids, RecallReport, RollingRecall, overlap

Exact = Callable[[NDArray[np.float32], int], Ids]  # (n, d), k -> (n, k), -1 for no hit


class ShadowReport(msgspec.Struct, frozen=True):
    recall: RecallReport
    skipped: int = 0  # sampled queries not searched exactly: the allowance was spent
    seconds: float = 0.0  # spent in exact searches


class ShadowRecall:
    """Not safe for several threads at once: the observer's thread owns it.

    `exact` is slow, and grows with the index: what it may cost is bounded by the allowance. While that is spent,
    queries are skipped and counted; which ones are skipped depends on when they come and on nothing else.
    """

    def __init__(self, exact: Exact, recall: RollingRecall, allowance: CpuBudget) -> None:
        self._exact = exact
        self.recall = recall
        self._allowance = allowance
        self._skipped = 0
        self._seconds = 0.0

    def compare(self, vectors: NDArray[np.float32], ids: Ids, now: float, exact: Exact | None = None) -> None:
        """Search the queries (n, d) exactly and count what of it the index's answer, ids (n, >= k), holds.

        `exact` stands in for the usual one: that of the index as it was when it answered.
        """
        if not self._allowance.left:
            self._skipped += len(vectors)
            return
        k = self.recall.k
        began = time.perf_counter()
        try:
            right = (exact or self._exact)(vectors, k)
        finally:
            spent = time.perf_counter() - began
            self._allowance.spend(spent)
            self._seconds += spent
        found, expected = overlap(ids[:, :k], right[:, :k])
        for pair in zip(found.tolist(), expected.tolist(), strict=True):
            self.recall.update(*pair, now)

    def report(self) -> ShadowReport:
        return ShadowReport(self.recall.report(), self._skipped, self._seconds)
