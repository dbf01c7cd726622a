"""A candidate beside what serves: does it find the same documents, does it find the right ones, and how fast?

Whoever owns both asks them; this counts. Overlap is no quality: a better model finds other documents. Recall of the
labelled probes, on both, is what decides.
"""

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from statistics import fmean
from threading import Lock

import msgspec
import numpy as np

from embedship.monitor.recall.score import K, RecallScore
from embedship.monitor.statistics import recall_interval

WINDOW = 500


class CandidateSide(StrEnum):
    """Label of what is measured on both."""

    SERVING = "serving"
    CANDIDATE = "candidate"


class SearchLatency(msgspec.Struct, frozen=True):
    """Seconds from text to hits over the last WINDOW searches of one query; 0 while there is none."""

    median: float = 0.0
    p99: float = 0.0


class CandidateReport(msgspec.Struct, frozen=True, kw_only=True):
    """With queries 0 the ratios and seconds are 0 and mean nothing."""

    fingerprint: str
    index: str  # its digest
    queries: int  # searches that both answered
    allowance_skipped: int  # sampled and not asked: the allowance was spent
    busy_skipped: int  # or the queue was full
    failures: int
    found: int  # of the documents served among the first ten, those that the candidate has among its own
    expected: int
    overlap: float  # mean overlap@10 of the last WINDOW searches
    lower: float  # ends of its 95% interval, by query
    upper: float
    seconds: float  # that the candidate took in all
    serving: SearchLatency
    candidate: SearchLatency
    probes: int  # labelled queries that the candidate was asked
    probe_recall: float  # recall@10 of these
    probe_ndcg: float


class CandidateComparison:
    """Thread-safe: fed by the candidate's thread and the request path, read by scrapes."""

    def __init__(self, fingerprint: str, index: str) -> None:
        self._names = (fingerprint, index)
        self._lock = Lock()
        self._queries = self._allowance = self._busy = self._failures = self._found = self._expected = 0
        self._overlaps: deque[float] = deque(maxlen=WINDOW)
        self._serving: deque[float] = deque(maxlen=WINDOW)
        self._candidate: deque[float] = deque(maxlen=WINDOW)
        self._seconds = 0.0
        self._probes: list[RecallScore] = []

    def compared(self, served: Sequence[str], found: Sequence[str], before: float | None, seconds: float) -> None:
        """Ids of the documents that both answered, best first, and the seconds each took; `before` is that of serving,
        None of a search that came with others."""
        right = set(served[:K])
        if not right:
            return
        shared = len(right & set(found[:K]))
        with self._lock:
            self._queries += 1
            self._found += shared
            self._expected += len(right)
            self._overlaps.append(shared / len(right))
            if before is not None:
                self._serving.append(before)
                self._candidate.append(seconds)

    def spent(self, seconds: float) -> None:
        with self._lock:
            self._seconds += seconds

    def skipped(self, *, busy: bool) -> None:
        with self._lock:
            self._busy += busy
            self._allowance += not busy

    def failed(self) -> None:
        with self._lock:
            self._failures += 1

    def probed(self, score: RecallScore) -> None:
        with self._lock:
            self._probes.append(score)

    def report(self) -> CandidateReport:
        with self._lock:
            interval = recall_interval(np.array(self._overlaps), K)
            probes = self._probes
            return CandidateReport(
                fingerprint=self._names[0],
                index=self._names[1],
                queries=self._queries,
                allowance_skipped=self._allowance,
                busy_skipped=self._busy,
                failures=self._failures,
                found=self._found,
                expected=self._expected,
                overlap=fmean(self._overlaps) if self._overlaps else 0.0,
                lower=interval.lower,
                upper=interval.upper,
                seconds=self._seconds,
                serving=_latency(self._serving),
                candidate=_latency(self._candidate),
                probes=len(probes),
                probe_recall=fmean(each.found / each.expected for each in probes) if probes else 0.0,
                probe_ndcg=fmean(each.ndcg for each in probes) if probes else 0.0,
            )


def _latency(seconds: Sequence[float]) -> SearchLatency:
    if not seconds:
        return SearchLatency()
    median, p99 = np.quantile(np.asarray(seconds), (0.5, 0.99))
    return SearchLatency(float(median), float(p99))
