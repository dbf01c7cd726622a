"""Everything a server holds, opened in the order in which it can fail, and closed in the opposite one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, ProcessCollector

from embedship import __version__, golden, tune
from embedship.bundle import REFERENCE, Bundle
from embedship.encoder import Encoder
from embedship.errors import MismatchError, UnsafeError
from embedship.golden import Golden, GoldenCheck
from embedship.monitor.collector import MonitorCollector
from embedship.monitor.errors import MonitorError, ReferenceMismatch
from embedship.monitor.observer import Observer
from embedship.monitor.reference import Reference
from embedship.serve import schemas
from embedship.serve.admission import Admission
from embedship.serve.drain import Drain
from embedship.serve.lanes import Lanes
from embedship.serve.metrics import Build, Metrics
from embedship.serve.pipeline import Pipeline
from embedship.serve.settings import Settings
from embedship.serve.shelf import Shelf
from embedship.serve.workers import Ticket, Workers
from embedship.tune import Settled


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    settings: Settings
    registry: CollectorRegistry
    encoder: Encoder
    remark: str | None  # what the log should say of how the variant was chosen
    golden: GoldenCheck
    shelf: Shelf | None
    admission: Admission
    workers: Workers
    observer: Observer
    metrics: Metrics
    pipeline: Pipeline
    drain: Drain
    _stack: ExitStack

    @classmethod
    def open(cls, settings: Settings, registry: CollectorRegistry | None = None) -> Self:
        """Choose and load the variant, prove it with the golden texts, open the index and the monitor.

        Raises UsageError, UnsafeError, MismatchError, MissingExtra, EngineError, GateError.
        """
        with ExitStack() as stack:  # a failure half way closes what was opened; success keeps it
            return cls._open(settings, registry or CollectorRegistry(), stack)

    @classmethod
    def _open(cls, settings: Settings, registry: CollectorRegistry, stack: ExitStack) -> Self:
        bundle = Bundle.open(settings.bundle)
        settled = Settled(settings.variant, None) if settings.variant else tune.settle(bundle, settings.cache)
        encoder = stack.enter_context(Encoder.open(bundle, settled.variant, streams=settings.streams))
        checked = golden.check(encoder)
        metrics = Metrics(registry, _build(encoder))
        shelf = _shelf(settings, encoder)
        if shelf:
            stack.callback(shelf.close)
        observer = stack.enter_context(_observer(settings, encoder.bundle, shelf))
        registry.register(MonitorCollector(observer.report))
        ProcessCollector(registry=registry)
        model = encoder.bundle.manifest.pipeline
        lanes: Lanes[Ticket] = Lanes(settings.batch_tokens)
        workers = Workers(encoder.engine, model.dimension, model.pad_id, lanes, metrics)
        stack.callback(workers.close)
        admission = Admission(settings.queue_texts)
        pipeline = Pipeline(model, encoder.tokenizer, admission, workers, shelf, observer, metrics)
        stack.callback(pipeline.close)
        metrics.queue_texts.set_function(workers.waiting)
        metrics.permits.set_function(lambda: admission.inside)
        drain = Drain(settings.drain_seconds)
        metrics.ready.set_function(lambda: not drain.draining)
        return cls(
            settings, registry, encoder, settled.remark, checked, shelf, admission, workers, observer, metrics,
            pipeline, drain, stack.pop_all(),
        )  # fmt: skip

    @property
    def bundle(self) -> Bundle:
        return self.encoder.bundle

    def info(self) -> schemas.Info:
        model, settings = self.bundle.manifest.pipeline, self.settings
        return schemas.Info(
            version=__version__,
            fingerprint=self.bundle.fingerprint,
            model_id=self.bundle.manifest.source.name,
            variant=self.encoder.variant.name,
            runtime=self.encoder.variant.runtime,
            precision=self.encoder.engine.precision,
            dimension=model.dimension,
            dimensions=list(model.dimensions),
            max_input_length=model.max_tokens,
            max_client_batch_size=settings.max_texts,
            prompts=sorted(model.prompts),
            default_prompt=model.default_prompt,
            streams=self.encoder.engine.streams,
            limits=schemas.Limits(
                max_texts=settings.max_texts,
                max_characters=settings.max_characters,
                max_body_bytes=settings.max_body_bytes,
                max_hits=settings.max_hits,
                queue_texts=settings.queue_texts,
                batch_tokens=settings.batch_tokens,
            ),
            golden=schemas.GoldenReport(self.golden.texts, self.golden.minimum, self.golden.mean),
            index=self._index_info(),
        )

    def _index_info(self) -> schemas.IndexInfo | None:
        if self.shelf is None:
            return None
        folder = self.shelf.folder
        return schemas.IndexInfo(folder.index.size, str(folder.index.kind), folder.manifest.query_prompt)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _build(encoder: Encoder) -> Build:
    variant = encoder.variant
    return Build(encoder.bundle.fingerprint, variant.name, variant.runtime, encoder.engine.precision, __version__)


def _shelf(settings: Settings, encoder: Encoder) -> Shelf | None:
    if settings.index is None:
        return None
    probe = Golden.load(encoder.bundle).vectors[:1]
    return Shelf.open(settings.index, encoder.bundle, encoder.tokenizer.prompt, probe)


def _observer(settings: Settings, bundle: Bundle, shelf: Shelf | None) -> Observer:
    return Observer(
        _reference(bundle),
        shelf.exact if shelf else None,
        fingerprint=bundle.fingerprint,
        baseline=shelf.baseline if shelf else None,
        sample_rate=settings.sample_rate,
        shadow_rate=settings.shadow_rate,
        interval_seconds=settings.drift_interval_seconds,
    )


def _reference(bundle: Bundle) -> Reference | None:
    path = bundle.path(REFERENCE)
    if not path.exists():
        return None
    if REFERENCE in bundle.manifest.files:
        bundle.verify([REFERENCE])
    try:
        reference = Reference.load(path)
        reference.require(bundle.fingerprint)
    except ReferenceMismatch as error:
        raise MismatchError(str(error)) from error
    except MonitorError as error:
        raise UnsafeError(str(error)) from error
    return reference
