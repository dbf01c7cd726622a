"""CandidateComparison: compares a candidate model and index with the serving one by overlap, recall and latency.

The server runs the searches; this module only counts. Overlap does not measure quality, because a better model finds
other documents. To choose a model, compare the recall of the labelled probes on both sides.
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
    """Label of metrics that are measured on both sides."""

    SERVING = "serving"
    CANDIDATE = "candidate"


class SearchLatency(msgspec.Struct, frozen=True):
    """Seconds from text to hits over the last WINDOW searches with one query; 0 without such a search."""

    median: float = 0.0
    p99: float = 0.0


class CandidateReport(msgspec.Struct, frozen=True, kw_only=True):
    """Results so far. While `queries` is 0, the ratios and seconds are 0 and mean nothing."""

    fingerprint: str
    index: str  # its digest
    queries: int  # searches that both sides answered
    allowance_skipped: int  # sampled searches not sent to the candidate, because the CPU budget was used up
    busy_skipped: int  # the same, because the candidate's queue was full
    failures: int
    found: int  # documents among the first ten served that are also among the candidate's first ten
    expected: int
    overlap: float  # mean overlap@10 of the last WINDOW searches
    lower: float  # ends of its 95% interval, by query
    upper: float
    seconds: float  # total time of the candidate's searches
    serving: SearchLatency
    candidate: SearchLatency
    probes: int  # labelled queries sent to the candidate
    probe_recall: float  # recall@10 of these queries
    probe_ndcg: float


class CandidateComparison:
    """Counts and compares the results of both sides.

    Thread-safe: the candidate's thread and the request path write it, and scrapes read it.
    """

    def __init__(self, fingerprint: str, index: str) -> None:
        self._names = (fingerprint, index)
        self._lock = Lock()
        self._queries = self._allowance = self._busy = self._failures = self._found = self._expected = 0
        self._overlaps: deque[float] = deque(maxlen=WINDOW)
        self._serving: deque[float] = deque(maxlen=WINDOW)
        self._candidate: deque[float] = deque(maxlen=WINDOW)
        self._seconds = 0.0
        self._probes: list[RecallScore] = []

    def record_comparison(
        self, served: Sequence[str], found: Sequence[str], serving_seconds: float | None, seconds: float
    ) -> None:
        """Record one search: the ids that the serving side and the candidate found, best first, and their seconds.

        serving_seconds: None if the request contained several searches.
        """
        right = set(served[:K])
        if not right:
            return
        shared = len(right & set(found[:K]))
        with self._lock:
            self._queries += 1
            self._found += shared
            self._expected += len(right)
            self._overlaps.append(shared / len(right))
            if serving_seconds is not None:
                self._serving.append(serving_seconds)
                self._candidate.append(seconds)

    def record_time(self, seconds: float) -> None:
        """Add the seconds that the candidate spent on a search."""
        with self._lock:
            self._seconds += seconds

    def record_skip(self, *, busy: bool) -> None:
        """Count a skipped search: busy if the queue was full, otherwise because the CPU budget was used up."""
        with self._lock:
            self._busy += busy
            self._allowance += not busy

    def record_failure(self) -> None:
        """Count a search that failed on the candidate."""
        with self._lock:
            self._failures += 1

    def record_probe(self, score: RecallScore) -> None:
        """Record the candidate's score on one labelled query."""
        with self._lock:
            self._probes.append(score)

    def report(self) -> CandidateReport:
        """Return the results so far."""
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
