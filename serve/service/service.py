"""Model service: one bundle with its index, monitor and background tasks. A reload replaces it as a whole.

Its parts are opened in a fixed order, and closed in the opposite order. During a reload the old and the new service are
open at the same time. Objects that live as long as the server are in state.py.
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
from embedship.serve.service import monitor_setup, reload_trial, trust
from embedship.serve.service.background import BackgroundTasks
from embedship.serve.service.candidate import ShadowCandidate
from embedship.serve.service.collection import Collection
from embedship.serve.service.document_writer import DocumentWriter
from embedship.serve.service.feedback import FeedbackService
from embedship.serve.service.model import LoadedModel, OpenedEncoder, open_model
from embedship.serve.service.query_pipeline import QueryPipeline
from embedship.serve.service.reranker import Reranker
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import BuildInfo, Metrics, ModelMetrics
from embedship.version import __version__


class AdmissionControllers(NamedTuple):
    """One queue limit per model, shared by the old and the new service during a reload."""

    embed: AdmissionController
    rerank: AdmissionController


@dataclass(slots=True, eq=False)
class ModelService:
    """Everything that is needed to answer requests with one bundle and one index."""

    settings: Settings  # with the bundle and index of this service
    model: LoadedModel
    reranker: Reranker | None
    collection: Collection | None
    candidate: ShadowCandidate | None
    monitor: QualityMonitor
    pipeline: QueryPipeline
    feedback: FeedbackService
    writer: DocumentWriter
    background: BackgroundTasks
    _stack: ExitStack
    inside: int = 0  # number of running requests
    _idle: asyncio.Event | None = None  # created when the service is to be closed

    @classmethod
    def open(
        cls,
        settings: Settings,
        admissions: AdmissionControllers,
        metrics: Metrics,
        encoder: Encoder | None = None,
        current: ModelService | None = None,
    ) -> Self:
        """Choose and load the variant, verify it with the golden texts, and open the index and the monitor.

        `encoder`, if given, is used instead of the one of the settings' bundle, and is closed with the service. In a
        reload, `current` is the service that answers now. Bundles and indexes are then first opened in a child process.
        A writable index is shared with `current`, and the state of its monitor is taken over.

        Raises UsageError, UnsafeError, MismatchError, MissingExtra, EngineError, GateError.
        """
        trust.require_trusted(settings)
        if current:
            known = frozenset(model.bundle.manifest.digest for model in current.models)
            reload_trial.require_openable(reload_trial.plan(settings, known))
        with ExitStack() as stack:  # a failure closes everything that was opened
            admission, counts = admissions.embed, metrics.embedding
            model = (
                LoadedModel.open(OpenedEncoder(encoder, None), settings, admission, counts, stack)
                if encoder
                else open_model(settings.bundle, settings.variant, Task.EMBED, settings, admission, counts, stack)
            )
            reranker = _reranker(settings, admissions.rerank, metrics.reranking, stack)
            return cls._open(settings, model, reranker, metrics, current, stack)

    @classmethod
    def _open(
        cls,
        settings: Settings,
        model: LoadedModel,
        reranker: Reranker | None,
        metrics: Metrics,
        current: ModelService | None,
        stack: ExitStack,
    ) -> Self:
        encoder = model.encoder
        collection = _collection(settings, encoder, current.collection if current else None)
        if collection:
            stack.callback(collection.close)
        candidate = ShadowCandidate.open(settings)
        if candidate:
            stack.callback(candidate.close)
        comparison = candidate.comparison if candidate else None
        monitor = monitor_setup.build_monitor(
            settings,
            encoder,
            collection,
            model.canary_target,
            comparison,
            reranker,
            current.monitor if current else None,
        )
        stack.enter_context(monitor)
        if candidate:
            candidate.start(monitor.probes.probes if monitor.probes else ())
        pipeline = QueryPipeline(model.inference, collection, monitor, metrics, candidate, reranker)
        background = BackgroundTasks(
            monitor,
            [model.canary_target, *([reranker.model.canary_target] if reranker else [])],
            pipeline,
            canary_seconds=settings.canary_interval_seconds,
            probe_seconds=settings.probe_interval_seconds,
        )
        feedback = FeedbackService(pipeline, monitor.feedback)
        writable = collection.backend.writable if collection else None
        writer = DocumentWriter(pipeline, writable, metrics, settings)
        stack.callback(writer.close)
        return cls(
            settings,
            model,
            reranker,
            collection,
            candidate,
            monitor,
            pipeline,
            feedback,
            writer,
            background,
            stack.pop_all(),
        )

    def request_started(self) -> None:
        """Count a request that this service answers, until `request_finished`. Both are called on the event loop."""
        self.inside += 1

    def request_finished(self) -> None:
        """Count the end of a request."""
        self.inside -= 1
        if self._idle and not self.inside:
            self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until the last request has finished. No new request may start on this service."""
        self._idle = asyncio.Event()
        if self.inside:
            await self._idle.wait()

    @property
    def encoder(self) -> Encoder:
        return self.model.encoder

    @property
    def inference(self) -> InferenceClient:
        return self.model.inference

    @property
    def workers(self) -> BatchExecutor:
        """Executor of the embedding model."""
        return self.model.workers

    @property
    def models(self) -> tuple[LoadedModel, ...]:
        """The embedding model and, if there is one, the re-ranker."""
        return (self.model, self.reranker.model) if self.reranker else (self.model,)

    @property
    def build_info(self) -> BuildInfo:
        """Labels of embedship_info."""
        variant, precision = self.encoder.variant, self.encoder.engine.precision
        reranker = self.reranker.model.bundle.fingerprint if self.reranker else ""
        return BuildInfo(self.bundle.fingerprint, variant.name, variant.runtime, precision, __version__, reranker)

    @property
    def golden(self) -> GoldenCheck:
        """Golden check of the embedding model at startup: the lowest cosines of all devices."""
        return self.model.golden

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
    assert counts is not None, "metrics for pairs exist if there is a re-ranker"
    model = open_model(settings.reranker, None, Task.RERANK, settings, admission, counts, stack)
    return Reranker(model, settings.max_body_bytes)


def _collection(settings: Settings, encoder: Encoder, before: Collection | None) -> Collection | None:
    if settings.index is None:
        return None
    probe = GoldenTexts.load(encoder.bundle).vectors[:1]
    return Collection.open(settings.index, encoder.bundle, encoder.tokenizer.prompt, probe, settings.writable, before)
