"""What users say was right, held against what they were answered."""

import secrets
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]  # (n, k): for each query of a request the index rows it was answered, -1 for none


class Answers:
    """The last `capacity` answered queries by request id. No text is kept, and no vector.

    An id is drawn at random, so that nobody can judge the answers of others. Not safe for several threads at once.

    >>> answers = Answers(100)
    >>> kept = answers.keep(np.array([[7, 3]]))
    >>> answers.take(kept, 0)
    array([7, 3])
    >>> answers.take(kept, 0) is None
    True
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` counts queries, not requests: it bounds memory at some 250 bytes a query."""
        self._capacity = capacity
        self._kept: OrderedDict[str, Rows] = OrderedDict()
        self._judged: dict[str, set[int]] = {}
        self.queries = 0

    def keep(self, rows: Rows) -> str:
        """Keep what a request was answered, and return the id to ask for it; the oldest leave."""
        request_id = secrets.token_hex(8)
        if len(rows) > self._capacity:
            return request_id
        self._kept[request_id] = rows.copy()
        self.queries += len(rows)
        while self.queries > self._capacity:
            oldest, left = self._kept.popitem(last=False)
            self._judged.pop(oldest, None)
            self.queries -= len(left)
        return request_id

    def take(self, request_id: str, result: int) -> Rows | None:
        """Return the rows of one result of a request, (k,), once; None if it is not kept or was taken before."""
        rows = self._kept.get(request_id)
        judged = self._judged.get(request_id, set())
        if rows is None or not 0 <= result < len(rows) or result in judged:
            return None
        self._judged[request_id] = judged | {result}
        taken: Rows = rows[result]
        return taken
