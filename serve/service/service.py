"""One bundle and its index, as they are served: what a reload replaces as a whole.

Opened in the order in which it can fail, beside the one that answers, and closed in the opposite order. What lives as
long as the server is in house.py.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from embedship.bundle import Bundle, Task
from embedship.encoder import Encoder
from embedship.golden import GoldenCheck
from embedship.golden_texts import GoldenTexts
from embedship.monitor.monitor import QualityMonitor
from embedship.serve.batching.admission import AdmissionController
from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.batching.model_client import InferenceClient
from embedship.serve.service import monitor_setup
from embedship.serve.service.background import BackgroundTasks
from embedship.serve.service.candidate import ShadowCandidate
from embedship.serve.service.collection import Collection
from embedship.serve.service.document_writer import DocumentWriter
from embedship.serve.service.feedback import FeedbackService
from embedship.serve.service.model import LoadedModel, OpenedEncoder, open_encoder
from embedship.serve.service.query_pipeline import QueryPipeline
from embedship.serve.service.reranker import Reranker
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import BuildInfo, Metrics, ModelMetrics
from embedship.version import __version__


class AdmissionControllers(NamedTuple):
    """The house's permits: one queue limit a model, whichever service answers."""

    embed: AdmissionController
    rerank: AdmissionController


@dataclass(slots=True, eq=False)
class ModelService:
    settings: Settings  # with the bundle and the index of this one
    running: LoadedModel
    reranker: Reranker | None
    shelf: Collection | None
    candidate: ShadowCandidate | None
    watch: QualityMonitor
    pipeline: QueryPipeline
    judge: FeedbackService
    writes: DocumentWriter
    rounds: BackgroundTasks
    _stack: ExitStack
    inside: int = 0  # requests that it has begun to answer
    _left: asyncio.Event | None = None  # made when it is to be closed

    @classmethod
    def open(
        cls,
        settings: Settings,
        admissions: AdmissionControllers,
        metrics: Metrics,
        encoder: Encoder | None = None,
        before: Collection | None = None,
        watched: QualityMonitor | None = None,
    ) -> Self:
        """Choose and load the variant, prove it with the golden texts, open the index and the monitor.

        An encoder that is given is taken instead of one of the settings' bundle, and closed with the service. `before`
        is what the service that answers now searches: one index that takes writes is shared by both. `watched` is its
        monitor, whose memory is taken up.
        Raises UsageError, UnsafeError, MismatchError, MissingExtra, EngineError, GateError.
        """
        with ExitStack() as stack:  # a failure half way closes what was opened; success keeps it
            opened = (
                OpenedEncoder(encoder, None)
                if encoder
                else open_encoder(settings.bundle, settings.variant, Task.EMBED, settings)
            )
            running = LoadedModel.open(opened, settings, admissions.embed, metrics.embedding, stack)
            reranker = _reranker(settings, admissions.rerank, metrics.reranking, stack)
            return cls._open(settings, running, reranker, metrics, before, watched, stack)

    @classmethod
    def _open(
        cls,
        settings: Settings,
        running: LoadedModel,
        reranker: Reranker | None,
        metrics: Metrics,
        before: Collection | None,
        watched: QualityMonitor | None,
        stack: ExitStack,
    ) -> Self:
        encoder = running.encoder
        shelf = _shelf(settings, encoder, before)
        if shelf:
            stack.callback(shelf.close)
        candidate = ShadowCandidate.open(settings)
        if candidate:
            stack.callback(candidate.close)
        comparison = candidate.comparison if candidate else None
        watch = monitor_setup.build_monitor(settings, encoder, shelf, running.choir, comparison, reranker, watched)
        stack.enter_context(watch)
        if candidate:
            candidate.start(watch.probes.probes if watch.probes else ())
        pipeline = QueryPipeline(running.forward, shelf, watch, metrics, candidate, reranker)
        rounds = BackgroundTasks(
            watch,
            [running.choir, *([reranker.running.choir] if reranker else [])],
            pipeline,
            canary_seconds=settings.canary_interval_seconds,
            probe_seconds=settings.probe_interval_seconds,
        )
        judge = FeedbackService(pipeline, watch.feedback)
        live = shelf.store.writable if shelf else None
        writes = DocumentWriter(pipeline, live, metrics, settings)
        stack.callback(writes.close)
        return cls(
            settings,
            running,
            reranker,
            shelf,
            candidate,
            watch,
            pipeline,
            judge,
            writes,
            rounds,
            stack.pop_all(),
        )

    def request_started(self) -> None:
        """A request is answered by this one, from here to `request_finished`; both are called on the event loop."""
        self.inside += 1

    def request_finished(self) -> None:
        self.inside -= 1
        if self._left and not self.inside:
            self._left.set()

    async def wait_until_idle(self) -> None:
        """Wait until the last request has left; none may enter any more."""
        self._left = asyncio.Event()
        if self.inside:
            await self._left.wait()

    @property
    def encoder(self) -> Encoder:
        return self.running.encoder

    @property
    def forward(self) -> InferenceClient:
        return self.running.forward

    @property
    def workers(self) -> BatchExecutor:
        """Of the model that embeds."""
        return self.running.workers

    @property
    def models(self) -> tuple[LoadedModel, ...]:
        """All that run here."""
        return (self.running, self.reranker.running) if self.reranker else (self.running,)

    @property
    def build_info(self) -> BuildInfo:
        variant, precision = self.encoder.variant, self.encoder.engine.precision
        reranker = self.reranker.running.bundle.fingerprint if self.reranker else ""
        return BuildInfo(self.bundle.fingerprint, variant.name, variant.runtime, precision, __version__, reranker)

    @property
    def golden(self) -> GoldenCheck:
        """At start, of the worst device."""
        return self.running.golden

    @property
    def bundle(self) -> Bundle:
        return self.encoder.bundle

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _reranker(
    settings: Settings, admission: AdmissionController, counts: ModelMetrics | None, stack: ExitStack
) -> Reranker | None:
    if settings.reranker is None:
        return None
    assert counts is not None, "whoever has a re-ranker counts its pairs"
    opened = open_encoder(settings.reranker, None, Task.RERANK, settings)
    return Reranker(LoadedModel.open(opened, settings, admission, counts, stack), settings.max_body_bytes)


def _shelf(settings: Settings, encoder: Encoder, before: Collection | None) -> Collection | None:
    if settings.index is None:
        return None
    probe = GoldenTexts.load(encoder.bundle).vectors[:1]
    return Collection.open(settings.index, encoder.bundle, encoder.tokenizer.prompt, probe, settings.writable, before)
