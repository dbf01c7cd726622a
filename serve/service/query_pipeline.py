"""From texts to vectors and hits: the one place where model, index, re-ranker and monitor meet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embedship.codes import normalise
from embedship.errors import UsageError
from embedship.monitor.monitor import Watch
from embedship.serve.batching.admission import Permit
from embedship.serve.batching.model_client import Encoded, Forward
from embedship.serve.documents.chunking import split_of
from embedship.serve.documents.filters import FilterError
from embedship.serve.errors import Invalid, NoIndex, NoReranker
from embedship.serve.search.backend import NEAREST, Found, How, K
from embedship.serve.search.fusion import Mode
from embedship.serve.service.reranker import Reranker
from embedship.serve.telemetry.metrics import Metrics
from embedship.serve.telemetry.request_context import NOW, Lane, Phase, mark

if TYPE_CHECKING:
    from embedship.codes import Vectors
    from embedship.serve.documents.store import Split
    from embedship.serve.index.manifest import Described
    from embedship.serve.service.candidate import Candidate
    from embedship.serve.service.collection import Shelf


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a search: one Found, with a row a query, and what its queries and pairs cost."""

    found: Found
    encoded: Encoded
    scored: int = 0  # tokens of the pairs that were re-ranked


class Pipeline:
    """Used from the event loop. Raises RequestErrors only."""

    def __init__(
        self,
        forward: Forward,
        shelf: Shelf | None,
        watch: Watch,
        metrics: Metrics,
        candidate: Candidate | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._forward = forward
        self._shelf = shelf
        self._watch = watch
        self._metrics = metrics
        self._candidate = candidate
        self._reranker = reranker

    async def embed(
        self, texts: Sequence[str], prompt_name: str | None, truncate: bool = True, lane: Lane | None = None
    ) -> Encoded:
        """Encode texts. Those with the model's prompt "query" are shown to the monitor, as searches are."""
        encoded = await self._forward.rows(texts, self._forward.prompt(prompt_name), truncate, lane)
        if prompt_name == "query":
            self._watch.observer.saw(encoded.vectors, None, texts)
        return encoded

    async def documents(self, texts: Sequence[str], prompt_name: str | None) -> Encoded:
        """Encode what is to be found by searches: behind them, as unit vectors, and unseen by the monitor."""
        encoded = await self._forward.rows(texts, self._forward.prompt(prompt_name), lane=Lane.BULK)
        normalised = self._forward.model.normalised
        return encoded if normalised else replace(encoded, vectors=normalise(encoded.vectors))

    def split_of(self, index: Described) -> Split | None:
        """What cuts documents as this model's index was cut; None where they stay whole."""
        return split_of(self._forward.tokenizer, self._forward.model, index.chunking, index.with_title)

    async def search(
        self,
        queries: Sequence[str],
        k: int,
        lane: Lane | None = None,
        how: How = NEAREST,
        rerank: int | None = None,
    ) -> Answered:
        """Encode queries with the index's own query prompt, find k documents for each, and tell the monitor.

        A keyword search has no vectors to show to the monitor, and costs no tokens. With `rerank`, so many are found,
        and the re-ranker says which k of them are the best: the monitor judges what was found.
        """
        began = time.perf_counter()
        shelf, feedback = self.shelf, self._watch.feedback
        reranker = self.reranker if rerank else None
        how = how._replace(texts=queries)
        depth = max(k, rerank or 0)
        if how.mode is Mode.KEYWORD:
            encoded = Encoded(np.empty((0, self._forward.model.dimension), dtype=np.float32), [], [])
            with self._forward.admission.enter(len(queries), lane or Lane.INTERACTIVE, paced=False) as permit:
                found = await self._found(None, depth, how, permit)
        else:
            with self._forward.enter(queries, shelf.prompt, lane) as permit:
                encoded = await self._forward.rows(queries, shelf.prompt, lane=lane, permit=permit)
                found = await self._found(encoded.vectors, depth, how, permit)
        self._metrics.search_seconds.observe(found.seconds)
        seconds = time.perf_counter() - began
        answered, scored = found, 0
        if reranker:
            answered, scored = await reranker.sorted(queries, found, k, shelf.store.manifest.with_title, lane)
        # Not before: a search that is refused a re-ranking comes again, and would be seen twice.
        if len(encoded.vectors):
            self._watch.observer.saw(encoded.vectors, found.nearest, queries, found.exact)
        if self._candidate:
            self._candidate.offer(queries, found, how, seconds)
        assert feedback is not None, "whoever has an index takes feedback"
        if visit := NOW.get():
            feedback.answers.keep(visit.id, answered.rows[:, :K], queries if feedback.keeps_texts else None)
        return Answered(answered, encoded, scored)

    async def _found(self, vectors: Vectors | None, k: int, how: How, permit: Permit) -> Found:
        try:
            found = await self.shelf.search(vectors, k, how, permit)
            mark(Phase.SEARCH)
            return found
        except FilterError as error:
            raise Invalid(f"{error}.", "filter") from None
        except UsageError as error:
            raise Invalid(f"{error}.", "effort") from None

    async def probe(self, query: str) -> list[int]:
        """The K best rows of a query, found as a user's is, but behind the users: at bulk priority, counted nowhere."""
        shelf = self.shelf
        encoded = await self._forward.rows([query], shelf.prompt, lane=Lane.BULK, counted=False)
        found = await shelf.search(encoded.vectors, K)
        mark(Phase.SEARCH)
        best: list[int] = found.rows[0, :K].tolist()
        return best

    def require_index(self) -> None:
        """Raise NoIndex where nothing is searched."""
        if self._shelf is None:
            raise NoIndex("This server holds no index: start it with `embedship serve BUNDLE --index INDEX`.")

    @property
    def shelf(self) -> Shelf:
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
