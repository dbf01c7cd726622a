"""Re-ranker: a cross-encoder that scores how well passages answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from embedship.bundle import Bundle
from embedship.serve.batching.model_client import EncodedTexts
from embedship.serve.errors import TooLarge
from embedship.serve.indexing.embedding import text_of
from embedship.serve.search.backend import RECALL_K, Hit, RankAndScore, SearchResults
from embedship.serve.service.model import LoadedModel
from embedship.serve.telemetry.request_context import Priority

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairScores:
    """(n,) float32 logits of n pairs, and their token counts."""

    logits: Scores
    encoded: EncodedTexts

    @property
    def probabilities(self) -> Scores:
        """(n,) sigmoid of the logits: between 0 and 1, in the same order."""
        return np.exp(-np.logaddexp(np.float32(0), -self.logits))


class Reranker:
    """Scores pairs, and re-ranks hits of searches. Used from the event loop; raises only RequestErrors."""

    def __init__(self, model: LoadedModel, max_characters: int) -> None:
        """`max_characters`: maximum number of tokenised characters per request; the query counts once per pair."""
        self.model = model
        self._max_characters = max_characters
        self.header = (b"x-embedship-reranker", self.bundle.fingerprint.encode())

    @property
    def bundle(self) -> Bundle:
        return self.model.bundle

    async def score(
        self, pairs: Sequence[tuple[str, str]], truncate: bool = True, lane: Priority | None = None
    ) -> PairScores:
        """Score (query, passage) pairs. In a pair that is too long, the longer text is truncated at its end."""
        if (characters := sum(len(query) + len(passage) for query, passage in pairs)) > self._max_characters:
            raise TooLarge(
                f"query: {len(pairs)} pairs with this query have {characters} characters; the maximum is "
                f"{self._max_characters} per request: shorten the query, or send fewer texts.",
                "query",
            )
        encoded = await self.model.inference.encode(pairs, truncate=truncate, lane=lane)
        return PairScores(encoded.vectors[:, 0], encoded)

    async def rerank(
        self, queries: Sequence[str], results: SearchResults, k: int, with_title: bool, lane: Priority | None
    ) -> tuple[SearchResults, int]:
        """Return the k best hits per query, with the scores of this model, and the number of computed tokens.

        Pairs of a search are interactive by default, regardless of their number, because a user waits for the search.
        """
        pairs = [
            (query, text_of(hit.document, with_title))
            for query, hits in zip(queries, results.hits, strict=True)
            for hit in hits
        ]
        if not pairs:
            return results, 0
        scored = await self.score(pairs, lane=lane or Priority.INTERACTIVE)
        ends = np.cumsum([len(hits) for hits in results.hits])[:-1]  # the pairs of a query are consecutive
        parts = (np.split(scores, ends) for scores in (scored.logits, scored.probabilities))
        ranked = [_sort_hits(*each) for each in zip(results.hits, *parts, strict=True)]
        rows = np.stack([_rows(hits, before) for hits, before in zip(ranked, results.rows, strict=True)])
        return replace(results, hits=[hits[:k] for hits in ranked], rows=rows), scored.encoded.tokens


def argsort_descending(logits: Scores) -> list[int]:
    """Return indices from best to worst; equal scores keep their order. Not for probabilities: the best are all 1.0."""
    order: list[int] = np.argsort(-logits, kind="stable").tolist()
    return order


def _sort_hits(hits: Sequence[Hit], logits: Scores, probabilities: Scores) -> list[Hit]:
    return [
        replace(hits[place], score=float(probabilities[place]), retrieved=RankAndScore(place + 1, hits[place].score))
        for place in argsort_descending(logits)
    ]


def _rows(hits: Sequence[Hit], before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (at least RECALL_K,) rows in their new order, followed by those that were not re-ranked."""
    order = dict.fromkeys([*(hit.row for hit in hits), *before[before >= 0].tolist()])
    rows = np.full(max(len(before), RECALL_K), -1, dtype=np.int64)
    first = list(order)[: len(rows)]
    rows[: len(first)] = first
    return rows
