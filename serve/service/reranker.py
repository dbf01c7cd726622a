"""The cross-encoder beside the model that embeds: a query and passages in, how well each answers it out."""

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
    """(n,) logits of n pairs, and what they cost."""

    logits: Scores
    encoded: EncodedTexts

    @property
    def probabilities(self) -> Scores:
        """The sigmoid of the logits: in the same order, and between 0 and 1."""
        return np.exp(-np.logaddexp(np.float32(0), -self.logits))


class Reranker:
    """Used from the event loop; raises RequestErrors only."""

    def __init__(self, running: LoadedModel, most_characters: int) -> None:
        """`most_characters` bounds what a request makes the tokeniser read: the query counts once a pair."""
        self.running = running
        self._most_characters = most_characters
        self.header = (b"x-embedship-reranker", self.bundle.fingerprint.encode())

    @property
    def bundle(self) -> Bundle:
        return self.running.bundle

    async def score(
        self, pairs: Sequence[tuple[str, str]], truncate: bool = True, lane: Priority | None = None
    ) -> PairScores:
        """Score (query, passage) pairs; what is too long for the model loses the end of its longer half."""
        if (characters := sum(len(query) + len(passage) for query, passage in pairs)) > self._most_characters:
            raise TooLarge(
                f"query: {len(pairs)} pairs with it have {characters} characters, this server reads "
                f"{self._most_characters} a request: shorten the query, or send fewer texts.",
                "query",
            )
        encoded = await self.running.forward.encode(pairs, truncate=truncate, lane=lane)
        return PairScores(encoded.vectors[:, 0], encoded)

    async def rerank(
        self, queries: Sequence[str], found: SearchResults, k: int, with_title: bool, lane: Priority | None
    ) -> tuple[SearchResults, int]:
        """The k best of the hits of each query, their scores those of this model; and the tokens that it cost.

        Somebody waits for a search, so its pairs do not wait behind bulk, however many they are.
        """
        pairs = [
            (query, text_of(hit.document, with_title))
            for query, hits in zip(queries, found.hits, strict=True)
            for hit in hits
        ]
        if not pairs:
            return found, 0
        scored = await self.score(pairs, lane=lane or Priority.INTERACTIVE)
        ends = np.cumsum([len(hits) for hits in found.hits])[:-1]  # the pairs of a query follow each other
        parts = (np.split(scores, ends) for scores in (scored.logits, scored.probabilities))
        ranked = [_ranked(*each) for each in zip(found.hits, *parts, strict=True)]
        rows = np.stack([_rows(hits, before) for hits, before in zip(ranked, found.rows, strict=True)])
        return replace(found, hits=[hits[:k] for hits in ranked], rows=rows), scored.encoded.tokens


def argsort_descending(logits: Scores) -> list[int]:
    """Places, those of equal scores in the order they came in. Not of probabilities: the best are all 1.0."""
    found: list[int] = np.argsort(-logits, kind="stable").tolist()
    return found


def _ranked(hits: Sequence[Hit], logits: Scores, probabilities: Scores) -> list[Hit]:
    return [
        replace(hits[place], score=float(probabilities[place]), retrieved=RankAndScore(place + 1, hits[place].score))
        for place in argsort_descending(logits)
    ]


def _rows(hits: Sequence[Hit], before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(K or more,) the documents in their new order, those that were not re-ranked behind them."""
    found = dict.fromkeys([*(hit.row for hit in hits), *before[before >= 0].tolist()])
    rows = np.full(max(len(before), RECALL_K), -1, dtype=np.int64)
    kept = list(found)[: len(rows)]
    rows[: len(kept)] = kept
    return rows
