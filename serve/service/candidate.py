"""Shadow candidate: runs a sample of live searches on another bundle and index before these replace the current ones.

It has its own thread, one stream and a bounded queue, so the request path never waits for it. Its CPU use is
limited to a share of one core. Searches above that limit, or while the queue is full, are skipped and counted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import NamedTuple, Self

import numpy as np

from embedship import golden, shapes, tune
from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.golden_texts import GoldenTexts
from embedship.monitor.cpu_budget import CpuBudget
from embedship.monitor.recall.candidate import CandidateComparison
from embedship.monitor.recall.probes import LabelledProbe
from embedship.monitor.recall.score import K, score
from embedship.serve.search.backend import SearchParams, SearchResults
from embedship.serve.search.fusion import SearchMode
from embedship.serve.service.collection import Collection
from embedship.serve.settings import Settings

logger = logging.getLogger(__name__)

# Maximum number of searches in the candidate's queue.
CAPACITY = 64

# Interval at which the idle thread checks for probes to search and for `close`.
_POLL_SECONDS = 0.2


class _SampledSearch(NamedTuple):
    """A live search and its result, to repeat on the candidate."""

    query: str
    params: SearchParams
    served: tuple[str, ...]  # ids of the documents, best first
    seconds: float | None


class ShadowCandidate:
    """Compares a candidate with live searches. `sample` is thread-safe; call `start` once, and `close` at the end."""

    def __init__(self, encoder: Encoder, collection: Collection, rate: float, share: float, seed: int = 0) -> None:
        self.comparison = CandidateComparison(encoder.bundle.fingerprint, collection.backend.manifest.digest)
        self._encoder, self._collection = encoder, collection
        self._rate = rate
        self._budget = CpuBudget(share)
        self._random = np.random.default_rng(seed)
        self._queue: Queue[_SampledSearch] = Queue(CAPACITY)
        self._probes: deque[LabelledProbe] = deque()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="candidate", daemon=True)

    @classmethod
    def open(cls, settings: Settings) -> Self | None:
        """Return the candidate of the settings, or None. Raises the same errors as ModelService.open."""
        if settings.candidate_index is None:
            return None
        bundle = Bundle.open(settings.candidate_bundle or settings.bundle)

        def open_variant(chosen: tune.ChosenVariant) -> Encoder:
            with ExitStack() as own:
                encoder = own.enter_context(Encoder.open(bundle, chosen.variant, streams=1))
                shapes.ensure(encoder, settings.cache)
                own.pop_all()
            return encoder

        with ExitStack() as on_error:
            encoder = on_error.enter_context(tune.open_chosen(bundle, settings.cache, open_variant))
            golden.check(encoder)
            vector = GoldenTexts.load(bundle).vectors[:1]
            collection = Collection.open(settings.candidate_index, bundle, encoder.tokenizer.prompt, vector)
            on_error.pop_all()
            return cls(encoder, collection, settings.candidate_rate, settings.candidate_share)

    def start(self, probes: Sequence[LabelledProbe] = ()) -> None:
        """Start the thread. When no search waits, probes are searched, each once: the candidate does not change."""
        self._probes.extend(probes)
        self._thread.start()

    def sample(self, queries: Sequence[str], results: SearchResults, params: SearchParams, seconds: float) -> None:
        """Queue a share of the queries of a search, which took `seconds`, for the candidate. Never blocks.

        Only similarity searches with default effort and at least ten hits are sampled.
        """
        if (
            params.mode is SearchMode.KEYWORD
            or params.effort is not None
            or not params.per_document
            or self._closing.is_set()
        ):
            return
        for query, hits in zip(queries, results.hits, strict=True):
            if len(hits) >= K and self._random.random() < self._rate:
                served = tuple(hit.document.id for hit in hits[:K])
                duration = seconds if len(queries) == 1 else None
                self._put(_SampledSearch(query, SearchParams(params.mode, filter=params.filter), served, duration))

    def _put(self, search: _SampledSearch) -> None:
        try:
            self._queue.put_nowait(search)
        except Full:
            self.comparison.record_skip(busy=True)

    def flush(self, timeout: float) -> bool:
        """Wait until all sampled searches and probes are done. Return False after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._queue.unfinished_tasks or self._probes:
            if self._closing.wait(0.01) or time.monotonic() > end:
                return False
        return True

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                search = self._queue.get(timeout=0.0 if self._probes and self._budget.left else _POLL_SECONDS)
            except Empty:
                self._search_probe()
                continue
            self._compare(search)
            self._queue.task_done()

    def _compare(self, search: _SampledSearch) -> None:
        if not self._budget.left:
            self.comparison.record_skip(busy=False)
            return
        result = self._search(search.query, search.params)
        if result is not None:
            self.comparison.record_comparison(search.served, result[0], search.seconds, result[1])

    def _search_probe(self) -> None:
        if self._probes and self._budget.left:
            probe = self._probes[0]
            result = self._search(probe.text, SearchParams())
            if result is not None:
                self.comparison.record_probe(score(result[0], probe.relevant))
            self._probes.popleft()

    def _search(self, query: str, params: SearchParams) -> tuple[list[str], float] | None:
        """Return the ids of the K best documents and the seconds taken, or None after a failure, which is counted."""
        began = time.perf_counter()
        try:
            tokens = self._encoder.tokenizer([query], self._collection.prompt)
            results = self._collection.backend.find(
                self._encoder.encode_tokens(tokens), K, params._replace(texts=[query])
            )
        except Exception:
            self.comparison.record_failure()
            logger.exception("the candidate failed on a search; live requests are not affected")
            return None
        finally:
            seconds = time.perf_counter() - began
            self._budget.spend(seconds)
            self.comparison.record_time(seconds)
        return [hit.document.id for hit in results.hits[0]], seconds

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._collection.close()
        self._encoder.close()
