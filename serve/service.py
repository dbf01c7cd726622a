"""Everything a server holds, opened in the order in which it can fail, and closed in the opposite one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from prometheus_client import CollectorRegistry, ProcessCollector

from embedship import __version__, golden, tune
from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.golden import Golden, GoldenCheck
from embedship.monitor.collector import MonitorCollector
from embedship.monitor.watch import Watch
from embedship.serve import schemas, watching
from embedship.serve.admission import Admission
from embedship.serve.drain import Drain
from embedship.serve.judge import Judge
from embedship.serve.keys import Keys
from embedship.serve.lanes import Lanes
from embedship.serve.metrics import Build, Metrics
from embedship.serve.pipeline import Pipeline
from embedship.serve.rounds import Rounds
from embedship.serve.settings import Settings
from embedship.serve.shelf import Shelf
from embedship.serve.workers import Ticket, Workers
from embedship.tune import Settled


class Door(NamedTuple):
    """The encoder of a server, and what its log should say of how the variant was chosen."""

    encoder: Encoder
    remark: str | None


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
    watch: Watch
    metrics: Metrics
    pipeline: Pipeline
    judge: Judge
    rounds: Rounds
    drain: Drain
    keys: Keys
    _stack: ExitStack

    @classmethod
    def open(
        cls, settings: Settings, registry: CollectorRegistry | None = None, encoder: Encoder | None = None
    ) -> Self:
        """Choose and load the variant, prove it with the golden texts, open the index and the monitor.

        An encoder that is given is taken instead of one of the settings' bundle, and closed with the service.
        Raises UsageError, UnsafeError, MismatchError, MissingExtra, EngineError, GateError.
        """
        with ExitStack() as stack:  # a failure half way closes what was opened; success keeps it
            keys = Keys.open(settings.api_key_file)
            door = Door(encoder, None) if encoder else _door(settings)
            return cls._open(settings, registry or CollectorRegistry(), door, keys, stack)

    @classmethod
    def _open(cls, settings: Settings, registry: CollectorRegistry, door: Door, keys: Keys, stack: ExitStack) -> Self:
        encoder = stack.enter_context(door.encoder)
        checked = golden.check(encoder)
        metrics = Metrics(registry, _build(encoder))
        shelf = _shelf(settings, encoder)
        if shelf:
            stack.callback(shelf.close)
        ProcessCollector(registry=registry)
        model = encoder.bundle.manifest.pipeline
        lanes: Lanes[Ticket] = Lanes(settings.batch_tokens)
        workers = Workers(encoder.engine, model.dimension, model.pad_id, lanes, metrics)
        stack.callback(workers.close)
        songs = watching.songs(encoder.bundle)
        watch = watching.watch(settings, encoder, shelf, songs, workers.devices)
        registry.register(MonitorCollector(watch.report))
        stack.enter_context(watch)
        admission = Admission(settings.queue_texts)
        pipeline = Pipeline(model, encoder.tokenizer, admission, workers, shelf, watch, metrics)
        stack.callback(pipeline.close)
        metrics.queue_texts.set_function(workers.waiting)
        metrics.permits.set_function(lambda: admission.inside)
        drain = Drain(settings.drain_seconds)
        rounds = Rounds(
            watch,
            workers,
            pipeline,
            songs,
            canary_seconds=settings.canary_interval_seconds,
            probe_seconds=settings.probe_interval_seconds,
        )
        judge = Judge(pipeline, watch.feedback)
        metrics.ready.set_function(lambda: not drain.draining)
        return cls(
            settings, registry, encoder, door.remark, checked, shelf, admission, workers, watch, metrics,
            pipeline, judge, rounds, drain, keys, stack.pop_all(),
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
            max_concurrent_requests=settings.queue_texts,
            max_batch_tokens=settings.batch_tokens,
            model_sha=self.bundle.manifest.source.revision,
            model_dtype=self.encoder.engine.precision,
            model_type=schemas.TeiType(schemas.TeiPooling(model.pooling)),
            auto_truncate=True,
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


def _door(settings: Settings) -> Door:
    bundle = Bundle.open(settings.bundle)
    settled = Settled(settings.variant, None) if settings.variant else tune.settle(bundle, settings.cache)
    return Door(Encoder.open(bundle, settled.variant, streams=settings.streams), settled.remark)


def _build(encoder: Encoder) -> Build:
    variant = encoder.variant
    return Build(encoder.bundle.fingerprint, variant.name, variant.runtime, encoder.engine.precision, __version__)


def _shelf(settings: Settings, encoder: Encoder) -> Shelf | None:
    if settings.index is None:
        return None
    probe = Golden.load(encoder.bundle).vectors[:1]
    return Shelf.open(settings.index, encoder.bundle, encoder.tokenizer.prompt, probe)
