"""From texts to vectors and hits: the one place where model, index, re-ranker and monitor meet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embedship.codes import normalise
from embedship.errors import UsageError
from embedship.monitor.monitor import QualityMonitor
from embedship.serve.batching.admission import QueuePermit
from embedship.serve.batching.model_client import EncodedTexts, InferenceClient
from embedship.serve.documents.chunking import chunker_for_index
from embedship.serve.documents.filters import FilterError
from embedship.serve.errors import Invalid, NoIndex, NoReranker
from embedship.serve.search.backend import DEFAULT_SEARCH_PARAMS, RECALL_K, SearchParams, SearchResults
from embedship.serve.search.fusion import SearchMode
from embedship.serve.service.reranker import Reranker
from embedship.serve.telemetry.metrics import Metrics
from embedship.serve.telemetry.request_context import Priority, RequestPhase, current_request, end_phase

if TYPE_CHECKING:
    from embedship.codes import Vectors
    from embedship.serve.documents.store import Split
    from embedship.serve.index.manifest import IndexDescription
    from embedship.serve.service.candidate import ShadowCandidate
    from embedship.serve.service.collection import Collection


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """The answer to a search: one Found, with a row a query, and what its queries and pairs cost."""

    found: SearchResults
    encoded: EncodedTexts
    scored: int = 0  # tokens of the pairs that were re-ranked


class QueryPipeline:
    """Used from the event loop. Raises RequestErrors only."""

    def __init__(
        self,
        forward: InferenceClient,
        shelf: Collection | None,
        watch: QualityMonitor,
        metrics: Metrics,
        candidate: ShadowCandidate | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._forward = forward
        self._shelf = shelf
        self._watch = watch
        self._metrics = metrics
        self._candidate = candidate
        self._reranker = reranker

    async def embed(
        self, texts: Sequence[str], prompt_name: str | None, truncate: bool = True, lane: Priority | None = None
    ) -> EncodedTexts:
        """Encode texts. Those with the model's prompt "query" are shown to the monitor, as searches are."""
        encoded = await self._forward.encode(texts, self._forward.prompt(prompt_name), truncate, lane)
        if prompt_name == "query":
            self._watch.observer.observe(encoded.vectors, None, texts)
        return encoded

    async def embed_documents(self, texts: Sequence[str], prompt_name: str | None) -> EncodedTexts:
        """Encode what is to be found by searches: behind them, as unit vectors, and unseen by the monitor."""
        encoded = await self._forward.encode(texts, self._forward.prompt(prompt_name), lane=Priority.BULK)
        normalised = self._forward.model.normalised
        return encoded if normalised else replace(encoded, vectors=normalise(encoded.vectors))

    def chunker_for(self, index: IndexDescription) -> Split | None:
        """What cuts documents as this model's index was cut; None where they stay whole."""
        return chunker_for_index(self._forward.tokenizer, self._forward.model, index.chunking, index.with_title)

    async def search(
        self,
        queries: Sequence[str],
        k: int,
        lane: Priority | None = None,
        how: SearchParams = DEFAULT_SEARCH_PARAMS,
        rerank: int | None = None,
    ) -> SearchOutcome:
        """Encode queries with the index's own query prompt, find k documents for each, and tell the monitor.

        A keyword search has no vectors to show to the monitor, and costs no tokens. With `rerank`, so many are found,
        and the re-ranker says which k of them are the best: the monitor judges what was found.
        """
        began = time.perf_counter()
        shelf, feedback = self.shelf, self._watch.feedback
        reranker = self.reranker if rerank else None
        how = how._replace(texts=queries)
        depth = max(k, rerank or 0)
        if how.mode is SearchMode.KEYWORD:
            encoded = EncodedTexts(np.empty((0, self._forward.model.dimension), dtype=np.float32), [], [])
            with self._forward.admission.acquire(len(queries), lane or Priority.INTERACTIVE, paced=False) as permit:
                found = await self._found(None, depth, how, permit)
        else:
            with self._forward.enter(queries, shelf.prompt, lane) as permit:
                encoded = await self._forward.encode(queries, shelf.prompt, lane=lane, permit=permit)
                found = await self._found(encoded.vectors, depth, how, permit)
        self._metrics.search_seconds.observe(found.seconds)
        seconds = time.perf_counter() - began
        answered, scored = found, 0
        if reranker:
            answered, scored = await reranker.rerank(queries, found, k, shelf.store.manifest.with_title, lane)
        # Not before: a search that is refused a re-ranking comes again, and would be seen twice.
        if len(encoded.vectors):
            self._watch.observer.observe(encoded.vectors, found.nearest, queries, found.exact)
        if self._candidate:
            self._candidate.sample(queries, found, how, seconds)
        assert feedback is not None, "whoever has an index takes feedback"
        if visit := current_request.get():
            feedback.answers.keep(visit.id, answered.rows[:, :RECALL_K], queries if feedback.keeps_texts else None)
        return SearchOutcome(answered, encoded, scored)

    async def _found(self, vectors: Vectors | None, k: int, how: SearchParams, permit: QueuePermit) -> SearchResults:
        try:
            found = await self.shelf.search(vectors, k, how, permit)
            end_phase(RequestPhase.SEARCH)
            return found
        except FilterError as error:
            raise Invalid(f"{error}.", "filter") from None
        except UsageError as error:
            raise Invalid(f"{error}.", "effort") from None

    async def search_probe(self, query: str) -> list[int]:
        """The K best rows of a query, found as a user's is, but behind the users: at bulk priority, counted nowhere."""
        shelf = self.shelf
        encoded = await self._forward.encode([query], shelf.prompt, lane=Priority.BULK, counted=False)
        found = await shelf.search(encoded.vectors, RECALL_K)
        end_phase(RequestPhase.SEARCH)
        best: list[int] = found.rows[0, :RECALL_K].tolist()
        return best

    def require_index(self) -> None:
        """Raise NoIndex where nothing is searched."""
        if self._shelf is None:
            raise NoIndex("This server holds no index: start it with `embedship serve BUNDLE --index INDEX`.")

    @property
    def shelf(self) -> Collection:
        self.require_index()
        assert self._shelf is not None, "required above"
        return self._shelf

    @property
    def reranker(self) -> Reranker:
        if self._reranker is None:
            raise NoReranker(
                "This server has no re-ranker: start it with `embedship serve BUNDLE --reranker RERANKER`."
            )
        return self._reranker
