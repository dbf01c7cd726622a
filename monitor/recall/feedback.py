"""FeedbackRecall: recall measured from users' judgements of the answers they got."""

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

STALE_SECONDS = 86_400.0  # people give feedback during the day: a night without judgements is normal

Rows = NDArray[np.int64]  # (n, k): the index rows that each query of a request was answered with, -1 for none


class JudgedQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query and the documents that a user called correct: training data. Kept only if the operator enables it."""

    query: str
    relevant: tuple[str, ...]
    recall: float


class FeedbackReport(msgspec.Struct, frozen=True):
    """Recall by feedback, and the judged queries that are kept."""

    recall: RecallReport
    answers: int = 0  # answered queries for which feedback can still be given
    pairs: tuple[JudgedQuery, ...] = ()


class KeptAnswer(NamedTuple):
    """The answer to one query: index rows, best first, and the text of the query if texts are kept."""

    rows: list[int]
    text: str | None


class _KeptPair(NamedTuple):
    """The answers to one request, and the results that were already judged."""

    rows: Rows
    texts: tuple[str, ...] | None
    judged_results: set[int]


class AnswerCache:
    """The last `capacity` answered queries by request id. Keeps no vectors, and a text only if it is passed.

    An id that was used for two different answers is invalid for both, because a judgement must not be counted for the
    wrong one. Not thread-safe.

    >>> answers = AnswerCache(100)
    >>> answers.store("f3", np.array([[7, 3]]))
    >>> answers.claim("f3", 0)
    KeptAnswer(rows=[7, 3], text=None)
    >>> answers.claim("f3", 0) is None
    True
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` counts queries, not requests. It limits memory to about 500 bytes per query."""
        self._capacity = capacity
        self._answers: OrderedDict[str, _KeptPair] = OrderedDict()
        self.queries = 0

    def store(self, request_id: str, rows: Rows, texts: Sequence[str] | None = None) -> None:
        """Store an answer and drop the oldest. A repeated request with the same answer changes nothing."""
        if stored := self._answers.get(request_id):
            if not np.array_equal(stored.rows, rows):
                stored.judged_results.update(range(len(stored.rows)))
            return
        if len(rows) > self._capacity:
            return
        self._answers[request_id] = _KeptPair(
            rows.copy(), None if texts is None else tuple(text[:CHARACTERS] for text in texts), set()
        )
        self.queries += len(rows)
        while self.queries > self._capacity:
            self.queries -= len(self._answers.popitem(last=False)[1].rows)

    def claim(self, request_id: str, result: int) -> KeptAnswer | None:
        """Return one result of a request, once. None if it is not stored or was claimed before."""
        stored = self._answers.get(request_id)
        if stored is None or not 0 <= result < len(stored.rows) or result in stored.judged_results:
            return None
        stored.judged_results.add(result)
        return KeptAnswer(stored.rows[result].tolist(), None if stored.texts is None else stored.texts[result])


class FeedbackRecall:
    """Recall@10 from users' judgements. Not thread-safe."""

    def __init__(self, answers: int = 10_000, pairs: int = 0, *, clock: Callable[[], float] = time.time) -> None:
        """Keep the last `answers` answered queries for judgement, and the last `pairs` judged queries with texts."""
        self.answers = AnswerCache(answers)
        self.recall = RollingRecall(K)
        self.pairs: deque[JudgedQuery] = deque(maxlen=pairs)
        self._clock = clock

    @property
    def keeps_texts(self) -> bool:
        """Whether texts of judged queries are kept."""
        return bool(self.pairs.maxlen)

    def judge(self, answered: Sequence[int], relevant: Mapping[str, int], text: str | None) -> RecallScore:
        """Count one judgement.

        answered: index rows of the answer, best first. relevant: id and row of the correct documents, not empty. The
        text and the ids are kept only if pairs are kept.
        """
        result = score(answered, relevant.values())
        self.recall.update(result.found, result.expected, self._clock())
        if text is not None:
            self.pairs.append(JudgedQuery(text[:CHARACTERS], tuple(relevant), result.found / result.expected))
        return result

    def report(self) -> FeedbackReport:
        """Return recall by feedback; `unknown` without a judgement for a day."""
        recall = self.recall.report().expire(self._clock(), STALE_SECONDS)
        return FeedbackReport(recall, self.answers.queries, tuple(self.pairs))
