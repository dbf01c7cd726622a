"""Scores one ranking when the relevant documents are known. Pure functions."""

from collections.abc import Collection, Hashable, Sequence
from math import log2
from typing import NamedTuple

K = 10


class RecallScore(NamedTuple):
    """The score of one ranking.

    `found`: relevant documents among the first k. `expected`: relevant documents, at most k. `ndcg`: nDCG@k.
    """

    found: int
    expected: int
    ndcg: float


def score(answered: Sequence[Hashable], relevant: Collection[Hashable], k: int = K) -> RecallScore:
    """Score a ranking, best first. A document is relevant or not (gain 1 or 0).

    A document may appear more than once, because several of its chunks were found. It counts at its first position.

    recall@k expects at most k relevant documents, because a ranking of k cannot contain more. nDCG as in Jarvelin and
    Kekalainen, "Cumulated gain-based evaluation of IR techniques", TOIS 20, 2002, with 1 / log2(rank + 1).

    >>> score(["b", "x", "a"], {"a", "b"}, k=3)
    RecallScore(found=2, expected=2, ndcg=0.9197207891481876)
    """
    wanted = set(relevant)
    ranks = [rank for rank, each in enumerate([*dict.fromkeys(answered)][:k], 1) if each in wanted]
    expected = min(len(wanted), k)
    ideal = sum(1 / log2(rank + 1) for rank in range(1, expected + 1))
    return RecallScore(len(ranks), expected, sum(1 / log2(rank + 1) for rank in ranks) / ideal if ideal else 0.0)
