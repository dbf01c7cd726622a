"""What users say was right, held against what they were answered."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.drift.window import CHARACTERS
from embedship.monitor.recall.rolling import RecallReport, RollingRecall
from embedship.monitor.recall.score import K, RecallScore, score

STALE_SECONDS = 86_400.0  # people judge by day: a night without a judgement is no news

Rows = NDArray[np.int64]  # (n, k): for each query of a request the index rows it was answered, -1 for none


class JudgedQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query and what a user said was right: what a re-training wants. Kept only where the operator asked for it."""

    query: str
    relevant: tuple[str, ...]
    recall: float


class FeedbackReport(msgspec.Struct, frozen=True):
    recall: RecallReport
    answers: int = 0  # answered queries that can still be judged
    pairs: tuple[JudgedQuery, ...] = ()


class KeptAnswer(NamedTuple):
    """One query's: index rows, best first, and its text where texts are kept."""

    rows: list[int]
    text: str | None


class _KeptPair(NamedTuple):
    rows: Rows
    texts: tuple[str, ...] | None
    judged: set[int]


class AnswerCache:
    """The last `capacity` answered queries by request id. No vector is kept, and a text only if it is given.

    An id that came with two different answers names neither of them: a judgement must not be counted against the wrong
    one. Not safe for several threads at once.

    >>> answers = Answers(100)
    >>> answers.keep("f3", np.array([[7, 3]]))
    >>> answers.take("f3", 0)
    Answer(rows=[7, 3], text=None)
    >>> answers.take("f3", 0) is None
    True
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` counts queries, not requests: it bounds memory at some 500 bytes a query."""
        self._capacity = capacity
        self._kept: OrderedDict[str, _KeptPair] = OrderedDict()
        self.queries = 0

    def keep(self, request_id: str, rows: Rows, texts: Sequence[str] | None = None) -> None:
        """Keep what a request was answered; the oldest leave. A request sent again, and answered alike, is the same."""
        if before := self._kept.get(request_id):
            if not np.array_equal(before.rows, rows):
                before.judged.update(range(len(before.rows)))
            return
        if len(rows) > self._capacity:
            return
        self._kept[request_id] = _KeptPair(
            rows.copy(), None if texts is None else tuple(text[:CHARACTERS] for text in texts), set()
        )
        self.queries += len(rows)
        while self.queries > self._capacity:
            self.queries -= len(self._kept.popitem(last=False)[1].rows)

    def take(self, request_id: str, result: int) -> KeptAnswer | None:
        """Return one result of a request, once; None if it is not kept or was taken before."""
        kept = self._kept.get(request_id)
        if kept is None or not 0 <= result < len(kept.rows) or result in kept.judged:
            return None
        kept.judged.add(result)
        return KeptAnswer(kept.rows[result].tolist(), None if kept.texts is None else kept.texts[result])


class FeedbackRecall:
    """Recall@10 by what users say. Not safe for several threads at once."""

    def __init__(self, answers: int = 10_000, pairs: int = 0, *, clock: Callable[[], float] = time.time) -> None:
        """Keep the last `answers` answered queries to be judged, and the last `pairs` judged ones with their texts."""
        self.answers = AnswerCache(answers)
        self.recall = RollingRecall(K)
        self.pairs: deque[JudgedQuery] = deque(maxlen=pairs)
        self._clock = clock

    @property
    def keeps_texts(self) -> bool:
        return bool(self.pairs.maxlen)

    def judge(self, answered: Sequence[int], relevant: Mapping[str, int], text: str | None) -> RecallScore:
        """Count one judgement: the rows that were answered, best first; id and row of those that were right, not none.

        The text is kept, with the ids, only if pairs are.
        """
        judged = score(answered, relevant.values())
        self.recall.update(judged.found, judged.expected, self._clock())
        if text is not None:
            self.pairs.append(JudgedQuery(text[:CHARACTERS], tuple(relevant), judged.found / judged.expected))
        return judged

    def report(self) -> FeedbackReport:
        recall = self.recall.report().aged(self._clock(), STALE_SECONDS)
        return FeedbackReport(recall, self.answers.queries, tuple(self.pairs))
