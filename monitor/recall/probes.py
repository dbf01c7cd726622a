"""ProbeRecall: recall@10 and nDCG@10 of the whole system on labelled queries (probes) that are replayed on a schedule.

The server sends the queries; this module only counts the answers.
"""

import time
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from embedship.monitor.recall.rolling import RecallBaseline, RecallMemory, RecallReport, RollingRecall
from embedship.monitor.recall.score import K, RecallScore
from embedship.monitor.state import SignalState

# Probes that were not replayed for this many intervals are `unknown`.
STALE = 3
WORST = 10


class LabelledProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query and the ids of its relevant documents."""

    text: str
    relevant: tuple[str, ...]
    id: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("`text` is empty: give the query")
        if not self.relevant:
            raise ValueError("`relevant` is empty: a query without a relevant document measures nothing")


class FailedProbe(msgspec.Struct, frozen=True):
    """A probe that did not find all its documents. `probe`: its position in the file, from 0. It contains no text."""

    probe: int
    id: str | None
    recall: float
    ndcg: float


class ProbeReport(msgspec.Struct, frozen=True):
    """Results of the replays. Before the first complete one (replayed_at 0) the ratios are 0 and mean nothing."""

    recall: RecallReport
    ndcg: float = 0.0  # mean nDCG@10 of the last complete replay
    ndcg_baseline: float = 0.0  # of the first complete replay; 0 while unknown
    queries: int = 0
    replays: int = 0  # complete ones
    failures: int = 0  # aborted replays: an incomplete replay is not comparable with a complete one
    missing: int = 0  # labels whose document is not in the index
    replayed_at: float = 0.0  # Unix time
    worst: tuple[FailedProbe, ...] = ()


class ProbeRecall:
    """The labelled queries and the results of their replays. Call `record_replay` once per replay. Not thread-safe.

    A replay is one window: the rolling recall is that of the last replay. The baseline is that of the first complete
    replay unless a measured one is given. It needs no margin for chance, because the queries are always the same. Each
    replay has a random order, because queries that fail together are often neighbours in the file. In file order, the
    cusum could mistake a run of such failures for a fall of recall.
    """

    def __init__(
        self,
        probes: Sequence[LabelledProbe],
        *,
        baseline: float | None = None,
        missing: int = 0,
        interval_seconds: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.probes = tuple(probes)
        self.recall = self._rolling(baseline)
        self.ndcg_baseline = 0.0
        self.missing = missing
        self._stale_seconds = STALE * interval_seconds
        self._clock = clock
        self._random = Random(0)
        self._ndcg = self._replayed_at = 0.0
        self._replays = self._failures = 0
        self._worst: tuple[FailedProbe, ...] = ()

    def order(self) -> list[int]:
        """Return the numbers of all probes, in the order of the next replay."""
        return self._random.sample(range(len(self.probes)), len(self.probes))

    @property
    def labels(self) -> list[str]:
        """Return the ids of all documents that the probes name, each once."""
        return sorted({label for probe in self.probes for label in probe.relevant})

    @property
    def reaches_baseline(self) -> bool:
        """Whether the last replay found at least as much as the baseline."""
        baseline = self.recall.baseline
        return bool(self._replays and baseline and self.recall.rolling >= baseline)

    def record_replay(self, scores: dict[int, RecallScore]) -> None:
        """Record the scores of a complete replay, by probe number, in the order in which they were sent."""
        assert len(scores) == len(self.probes), "a replay must be complete"
        now = self._clock()
        mean = sum(each.found / each.expected for each in scores.values()) / len(scores)
        if self.recall.baseline is None and mean > 0:
            self.recall = self._rolling(mean)
        for each in scores.values():
            self.recall.update(each.found, each.expected, now)
        self._ndcg = sum(each.ndcg for each in scores.values()) / len(scores)
        self.ndcg_baseline = self.ndcg_baseline or self._ndcg
        self._worst = tuple(self._failed(scores))
        self._replays += 1
        self._replayed_at = now

    def _rolling(self, baseline: float | None) -> RollingRecall:
        exact = RecallBaseline.exact(baseline) if baseline else None
        return RollingRecall(K, window=len(self.probes), windows=1, baseline=exact)

    def inherit(self, baseline: float, ndcg_baseline: float) -> None:
        """Use the baseline of another model on the same probes, unless a measured baseline was given."""
        if self.recall.baseline is None:
            self.recall = self._rolling(baseline)
            self.ndcg_baseline = ndcg_baseline

    def restore(self, memory: RecallMemory, ndcg_baseline: float) -> None:
        """Continue from the state of an earlier server, and use its baseline unless a measured one was given."""
        if self.recall.baseline is None:
            self.recall = self._rolling(memory.baseline)
        self.recall.restore(memory)
        self.ndcg_baseline = ndcg_baseline

    def record_failed_replay(self) -> None:
        """Count an aborted replay."""
        self._failures += 1

    def report(self) -> ProbeReport:
        """Return the results of the replays; `unknown` if the last replay is too old."""
        recall = self.recall.report()
        if self._replayed_at < self._clock() - self._stale_seconds:
            reason = f"no complete replay in the last {self._stale_seconds:.0f} s"
            recall = msgspec.structs.replace(recall, state=SignalState.UNKNOWN, reason=reason)
        return ProbeReport(
            recall=recall,
            ndcg=self._ndcg,
            ndcg_baseline=self.ndcg_baseline,
            queries=len(self.probes),
            replays=self._replays,
            failures=self._failures,
            missing=self.missing,
            replayed_at=self._replayed_at,
            worst=self._worst,
        )

    def _failed(self, scores: dict[int, RecallScore]) -> list[FailedProbe]:
        incomplete = sorted((number for number, each in scores.items() if each.found < each.expected),
                            key=lambda number: (scores[number].ndcg, number))  # fmt: skip
        return [
            FailedProbe(n, self.probes[n].id, scores[n].found / scores[n].expected, scores[n].ndcg)
            for n in incomplete[:WORST]
        ]
