"""ShadowRecall: recall of the index, measured by a second, exact search for a sample of live queries."""

import time
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.cpu_budget import CpuBudget
from embedship.monitor.recall.rolling import Ids, RecallReport, RollingRecall, overlap

Exact = Callable[[NDArray[np.float32], int], Ids]  # (n, d), k -> (n, k), -1 for no hit


class ShadowReport(msgspec.Struct, frozen=True):
    """Recall of live queries against exact searches, and the cost of these searches."""

    recall: RecallReport
    skipped: int = 0  # sampled queries not searched exactly, because the CPU budget was used up
    seconds: float = 0.0  # spent in exact searches


class ShadowRecall:
    """Compares answers of the index with exact searches. Not thread-safe: only the observer's thread uses it.

    An exact search is slow, and its cost grows with the index. The CPU budget limits it: while the budget is used up,
    queries are skipped and counted. Which ones are skipped depends only on when they arrive.
    """

    def __init__(self, exact: Exact, recall: RollingRecall, allowance: CpuBudget) -> None:
        self._exact = exact
        self.recall = recall
        self._allowance = allowance
        self._skipped = 0
        self._seconds = 0.0

    def compare(self, vectors: NDArray[np.float32], ids: Ids, now: float, exact: Exact | None = None) -> None:
        """Search the queries (n, d) exactly and count how many of these hits are in the index's answer, ids (n, >= k).

        `exact` replaces the usual function. It searches the index in the state in which it gave this answer.
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
        """Return recall, the number of skipped queries, and the time spent."""
        return ShadowReport(self.recall.report(), self._skipped, self._seconds)
