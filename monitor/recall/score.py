"""How good is one ranking, the relevant documents being known? Pure."""

from collections.abc import Collection, Hashable, Sequence
from math import log2
from typing import NamedTuple

K = 10


class RecallScore(NamedTuple):
    """`found` of the `expected` relevant documents, at most k, are among the first k; nDCG@k of the same ranking."""

    found: int
    expected: int
    ndcg: float


def score(answered: Sequence[Hashable], relevant: Collection[Hashable], k: int = K) -> RecallScore:
    """Judge a ranking, best first. Relevance is yes or no, so the gain is 1 and the ideal has all of it first.

    What is answered more than once, a document by several of its chunks, counts at its first place.

    recall@k counts at most k relevant documents as expected: no ranking of k could hold more. nDCG as in Jarvelin and
    Kekalainen, "Cumulated gain-based evaluation of IR techniques", TOIS 20, 2002, with 1 / log2(rank + 1).

    >>> score(["b", "x", "a"], {"a", "b"}, k=3)
    Score(found=2, expected=2, ndcg=0.9197207891481876)
    """
    wanted = set(relevant)
    ranks = [rank for rank, each in enumerate([*dict.fromkeys(answered)][:k], 1) if each in wanted]
    expected = min(len(wanted), k)
    ideal = sum(1 / log2(rank + 1) for rank in range(1, expected + 1))
    return RecallScore(len(ranks), expected, sum(1 / log2(rank + 1) for rank in ranks) / ideal if ideal else 0.0)
