"""Query pipeline: encodes texts and searches the index, and passes queries to re-ranker, candidate and monitor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embedship.codes import normalise
from embedship.errors import UsageError
from embedship.monitor.monitor import QualityMonitor
from embedship.serve.batching.model_client import EncodedTexts, InferenceClient
from embedship.serve.documents.chunking import chunker_for_index
from embedship.serve.documents.filters import FilterError
from embedship.serve.errors import Invalid, NoIndex, NoReranker, TooLarge
from embedship.serve.search.backend import (
    DEFAULT_SEARCH_PARAMS,
    RECALL_K,
    HitsTooLarge,
    SearchParams,
    SearchResults,
)
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
    """Result of a search, with the tokens of its queries and of re-ranked pairs."""

    results: SearchResults
    encoded: EncodedTexts
    scored: int = 0  # tokens of the re-ranked pairs


class QueryPipeline:
    """Connects model, index, re-ranker and monitor. Used from the event loop; raises only RequestErrors."""

    def __init__(
        self,
        inference: InferenceClient,
        collection: Collection | None,
        monitor: QualityMonitor,
        metrics: Metrics,
        candidate: ShadowCandidate | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._inference = inference
        self._collection = collection
        self._monitor = monitor
        self._metrics = metrics
        self._candidate = candidate
        self._reranker = reranker

    async def embed(
        self, texts: Sequence[str], prompt_name: str | None, truncate: bool = True, lane: Priority | None = None
    ) -> EncodedTexts:
        """Encode texts. Texts with the prompt "query" are also passed to the monitor, like queries of searches."""
        encoded = await self._inference.encode(texts, self._inference.prompt(prompt_name), truncate, lane)
        if prompt_name == "query":
            self._monitor.observer.observe(encoded.vectors, None, texts)
        return encoded

    async def embed_documents(self, texts: Sequence[str], prompt_name: str | None) -> EncodedTexts:
        """Encode documents of the index as unit vectors, with lower priority than searches and without the monitor."""
        encoded = await self._inference.encode(texts, self._inference.prompt(prompt_name), lane=Priority.BULK)
        normalised = self._inference.model.normalised
        return encoded if normalised else replace(encoded, vectors=normalise(encoded.vectors))

    def chunker_for(self, index: IndexDescription) -> Split | None:
        """Return the function that splits documents into chunks as in this index, or None if it has no chunks."""
        return chunker_for_index(self._inference.tokenizer, self._inference.model, index.chunking, index.with_title)

    async def search(
        self,
        queries: Sequence[str],
        k: int,
        lane: Priority | None = None,
        params: SearchParams = DEFAULT_SEARCH_PARAMS,
        rerank: int | None = None,
    ) -> SearchOutcome:
        """Encode queries with the query prompt of the index, find k documents for each, and inform the monitor.

        A keyword search computes no vectors and no tokens, so the monitor does not see it. `rerank` is the number of
        documents to find and re-rank before the k best are returned; the monitor sees the hits before re-ranking.
        """
        began = time.perf_counter()
        collection, feedback = self.collection, self._monitor.feedback
        reranker = self.reranker if rerank else None
        params = params._replace(texts=queries)
        depth = max(k, rerank or 0)
        vectors: Vectors | None = None
        if params.mode is SearchMode.KEYWORD:
            encoded = EncodedTexts(np.empty((0, self._inference.model.dimension), dtype=np.float32), [], [])
            permit = self._inference.admission.acquire(len(queries), lane or Priority.INTERACTIVE, uses_model=False)
        else:
            permit = self._inference.enter(queries, collection.prompt, lane)
        with permit:
            if params.mode is not SearchMode.KEYWORD:
                encoded = await self._inference.encode(queries, collection.prompt, lane=lane, permit=permit)
                vectors = encoded.vectors
            with _invalid_parameters_as_http_errors():
                results = await collection.search(vectors, depth, params, permit)
            end_phase(RequestPhase.SEARCH)
        self._metrics.search_seconds.observe(results.seconds)
        seconds = time.perf_counter() - began
        returned, scored = results, 0
        if reranker:
            returned, scored = await reranker.rerank(queries, results, k, collection.backend.manifest.with_title, lane)
        # Record the query only after re-ranking: a request rejected there is retried, and would be counted twice.
        if len(encoded.vectors):
            self._monitor.observer.observe(encoded.vectors, results.nearest, queries, results.exact)
        if self._candidate:
            self._candidate.sample(queries, results, params, seconds)
        assert feedback is not None, "a server with an index has feedback"
        if context := current_request.get():
            feedback.answers.store(context.id, returned.rows[:, :RECALL_K], queries if feedback.keeps_texts else None)
        return SearchOutcome(returned, encoded, scored)

    async def search_probe(self, query: str) -> list[int]:
        """Return the RECALL_K best rows of a query: a search like a user's, but with bulk priority and not counted."""
        collection = self.collection
        encoded = await self._inference.encode([query], collection.prompt, lane=Priority.BULK, counted=False)
        results = await collection.search(encoded.vectors, RECALL_K)
        end_phase(RequestPhase.SEARCH)
        rows: list[int] = results.rows[0, :RECALL_K].tolist()
        return rows

    def require_index(self) -> None:
        """Raise NoIndex if the server has no index."""
        if self._collection is None:
            raise NoIndex("This server has no index: start it with `embedship serve BUNDLE --index INDEX`.")

    @property
    def collection(self) -> Collection:
        """The index of this server. Raises NoIndex."""
        self.require_index()
        assert self._collection is not None, "checked by require_index"
        return self._collection

    @property
    def reranker(self) -> Reranker:
        """The re-ranker of this server. Raises NoReranker."""
        if self._reranker is None:
            raise NoReranker(
                "This server has no re-ranker: start it with `embedship serve BUNDLE --reranker RERANKER`."
            )
        return self._reranker


@contextmanager
def _invalid_parameters_as_http_errors() -> Iterator[None]:
    try:
        yield
    except FilterError as error:
        raise Invalid(f"{error}.", "filter") from None
    except UsageError as error:
        raise Invalid(f"{error}.", "effort") from None
    except HitsTooLarge as error:
        raise TooLarge(f"k: {error}: lower k, or send fewer queries.", "k") from None
