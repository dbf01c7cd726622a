"""Another bundle and index, asked what the server is asked, before they take its place.

A thread of its own, one stream, a bounded queue: the request path hands over a sample and never waits. What the
candidate may cost is bounded by a share of a core; what is over it, or finds the queue full, is skipped and counted.
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

# Searches that may wait for the candidate.
CAPACITY = 64

# How often the thread looks whether probes may be asked, or an end was made.
_PATIENCE_SECONDS = 0.2


class _SampledSearch(NamedTuple):
    query: str
    how: SearchParams
    served: tuple[str, ...]  # ids of the documents, best first
    seconds: float | None


class ShadowCandidate:
    """`sample` may be called from any thread; `start` once, `close` at the end."""

    def __init__(self, encoder: Encoder, shelf: Collection, rate: float, share: float, seed: int = 0) -> None:
        self.comparison = CandidateComparison(encoder.bundle.fingerprint, shelf.store.manifest.digest)
        self._encoder, self._shelf = encoder, shelf
        self._rate = rate
        self._allowance = CpuBudget(share)
        self._random = np.random.default_rng(seed)
        self._queue: Queue[_SampledSearch] = Queue(CAPACITY)
        self._probes: deque[LabelledProbe] = deque()
        self._over = Event()
        self._thread = Thread(target=self._run, name="candidate", daemon=True)

    @classmethod
    def open(cls, settings: Settings) -> Self | None:
        """None where the settings name no candidate. Raises what the start of a service raises."""
        if settings.candidate_index is None:
            return None
        bundle = Bundle.open(settings.candidate_bundle or settings.bundle)
        with ExitStack() as on_error:
            variant = tune.choose_variant(bundle, settings.cache).variant
            encoder = on_error.enter_context(Encoder.open(bundle, variant, streams=1))
            shapes.ensure(encoder, settings.cache)
            golden.check(encoder)
            probe = GoldenTexts.load(bundle).vectors[:1]
            shelf = Collection.open(settings.candidate_index, bundle, encoder.tokenizer.prompt, probe)
            on_error.pop_all()
            return cls(encoder, shelf, settings.candidate_rate, settings.candidate_share)

    def start(self, probes: Sequence[LabelledProbe] = ()) -> None:
        """Probes are asked once, when no search waits: neither the candidate nor its index changes."""
        self._probes.extend(probes)
        self._thread.start()

    def sample(self, queries: Sequence[str], found: SearchResults, how: SearchParams, seconds: float) -> None:
        """Take note of what was answered to a search, which took `seconds`. Never blocks.

        Looked at are searches by similarity for ten documents or more.
        """
        if how.mode is SearchMode.KEYWORD or how.effort is not None or not how.per_document or self._over.is_set():
            return
        for query, hits in zip(queries, found.hits, strict=True):
            if len(hits) >= K and self._random.random() < self._rate:
                served = tuple(hit.document.id for hit in hits[:K])
                alone = seconds if len(queries) == 1 else None
                self._put(_SampledSearch(query, SearchParams(how.mode, filter=how.filter), served, alone))

    def _put(self, asked: _SampledSearch) -> None:
        try:
            self._queue.put_nowait(asked)
        except Full:
            self.comparison.skipped(busy=True)

    def flush(self, timeout: float) -> bool:
        """Wait until what was offered so far, and every probe, is done with. False if that took too long."""
        end = time.monotonic() + timeout
        while self._queue.unfinished_tasks or self._probes:
            if self._over.wait(0.01) or time.monotonic() > end:
                return False
        return True

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                asked = self._queue.get(timeout=0.0 if self._probes and self._allowance.left else _PATIENCE_SECONDS)
            except Empty:
                self._probe()
                continue
            self._compare(asked)
            self._queue.task_done()

    def _compare(self, asked: _SampledSearch) -> None:
        if not self._allowance.left:
            self.comparison.skipped(busy=False)
            return
        answer = self._ask(asked.query, asked.how)
        if answer is not None:
            self.comparison.compared(asked.served, answer[0], asked.seconds, answer[1])

    def _probe(self) -> None:
        if self._probes and self._allowance.left:
            probe = self._probes[0]
            answer = self._ask(probe.text, SearchParams())
            if answer is not None:
                self.comparison.probed(score(answer[0], probe.relevant))
            self._probes.popleft()

    def _ask(self, query: str, how: SearchParams) -> tuple[list[str], float] | None:
        """Ids of the K best documents, and how long they took; None if it failed, which is counted."""
        began = time.perf_counter()
        try:
            tokens = self._encoder.tokenizer([query], self._shelf.prompt)
            found = self._shelf.search_sync(self._encoder.encode_tokens(tokens), K, how._replace(texts=[query]))
        except Exception:
            self.comparison.failed()
            logger.exception("the candidate failed on a search; the service is untouched")
            return None
        finally:
            seconds = time.perf_counter() - began
            self._allowance.spend(seconds)
            self.comparison.spent(seconds)
        return [hit.document.id for hit in found.hits[0]], seconds

    def close(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._shelf.close()
        self._encoder.close()
