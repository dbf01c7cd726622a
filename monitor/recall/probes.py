"""Labelled queries, replayed on a schedule: recall@10 and nDCG@10 of the whole stack on always the same questions.

Whoever owns the stack asks them; this counts the answers.
"""

import time
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from embedship.monitor.recall.rolling import RecallBaseline, RecallMemory, RecallReport, RollingRecall
from embedship.monitor.recall.score import K, RecallScore
from embedship.monitor.state import SignalState

# Labels that have not been tried for so many intervals prove nothing any more.
STALE = 3
WORST = 10


class LabelledProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query and the ids of the documents that answer it."""

    text: str
    relevant: tuple[str, ...]
    id: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("`text` is empty")
        if not self.relevant:
            raise ValueError("`relevant` is empty: a query without a right answer measures nothing")


class FailedProbe(msgspec.Struct, frozen=True):
    """A probe that did not get all it should: its place in the file, from 0, and its id if it has one; no text."""

    probe: int
    id: str | None
    recall: float
    ndcg: float


class ProbeReport(msgspec.Struct, frozen=True):
    """Before the first whole replay (replayed_at 0) the ratios are 0 and mean nothing."""

    recall: RecallReport
    ndcg: float = 0.0  # mean nDCG@10 of the last whole replay
    ndcg_baseline: float = 0.0  # of the first one; 0 while unknown
    queries: int = 0
    replays: int = 0  # whole ones
    failures: int = 0  # replays given up: a replay with a hole is not comparable with a whole one
    missing: int = 0  # labels that name a document which the index does not hold
    replayed_at: float = 0.0  # Unix time
    worst: tuple[FailedProbe, ...] = ()


class ProbeRecall:
    """The questions, and what their replays gave. `replayed` once a replay; not safe for several threads at once.

    A replay is one window: the rolling recall is that of the last replay, and the baseline that of the first whole one
    unless a measured one is given. It needs no margin for chance, for the same questions are asked again. Their order
    is drawn anew for each replay: questions that fail together are often neighbours in the file, and the cusum would
    take a run of them for a fall.
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
        """The numbers of all probes, in the order of the next replay."""
        return self._random.sample(range(len(self.probes)), len(self.probes))

    @property
    def labels(self) -> list[str]:
        """The ids of all documents that the probes name, each once."""
        return sorted({label for probe in self.probes for label in probe.relevant})

    @property
    def confirmed(self) -> bool:
        """Whether the last replay found at least as much as the baseline."""
        baseline = self.recall.baseline
        return bool(self._replays and baseline and self.recall.rolling >= baseline)

    def replayed(self, scores: dict[int, RecallScore]) -> None:
        """Take the scores of a whole replay, by probe number, in the order they were asked."""
        assert len(scores) == len(self.probes), "a replay is whole"
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
        given = RecallBaseline.exact(baseline) if baseline else None
        return RollingRecall(K, window=len(self.probes), windows=1, baseline=given)

    def inherit(self, baseline: float, ndcg_baseline: float) -> None:
        """Compare with what another model found on the same probes, unless a measured baseline was given."""
        if self.recall.baseline is None:
            self.recall = self._rolling(baseline)
            self.ndcg_baseline = ndcg_baseline

    def remember(self, memory: RecallMemory, ndcg_baseline: float) -> None:
        """Go on where the server before ended: the baseline is that of its first replay, not of ours."""
        if self.recall.baseline is None:
            self.recall = self._rolling(memory.baseline)
        self.recall.remember(memory)
        self.ndcg_baseline = ndcg_baseline

    def given_up(self) -> None:
        self._failures += 1

    def report(self) -> ProbeReport:
        recall = self.recall.report()
        if self._replayed_at < self._clock() - self._stale_seconds:
            reason = f"no whole replay in the last {self._stale_seconds:.0f} s"
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
