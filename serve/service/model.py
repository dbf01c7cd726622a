"""A bundle at work: its variant chosen, loaded and proven, with the queue before its devices."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from embedship import shapes, tune
from embedship.bundle import Bundle, Task
from embedship.encoder import Encoder
from embedship.golden import GoldenCheck
from embedship.serve.batching.admission import AdmissionController
from embedship.serve.batching.executor import BatchExecutor
from embedship.serve.batching.model_client import InferenceClient
from embedship.serve.batching.pending import PendingRequest
from embedship.serve.batching.priority_queue import PriorityQueue
from embedship.serve.devices.fleet import DevicePool, local, processes
from embedship.serve.service.canaries import CanaryTarget, CanaryTexts
from embedship.serve.service.shape_walk import ShapeWalk
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import ModelMetrics
from embedship.tune import ChosenVariant


class OpenedEncoder(NamedTuple):
    """The encoder of a bundle, and what the log should say of how its variant was chosen."""

    encoder: Encoder
    remark: str | None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    encoder: Encoder
    remark: str | None
    fleet: DevicePool
    forward: InferenceClient
    choir: CanaryTarget

    @classmethod
    def open(
        cls,
        door: OpenedEncoder,
        settings: Settings,
        admission: AdmissionController,
        counts: ModelMetrics,
        stack: ExitStack,
    ) -> Self:
        """Prove every device with the golden texts, and the shapes of batches, if they are not certified here.

        What was opened, the encoder too, is closed with `stack`.

        Raises EngineError, GateError.
        """
        encoder = stack.enter_context(door.encoder)
        # An encoder over worker processes is a fleet already; the streams of any other become one.
        engine = encoder.engine
        if not isinstance(engine, DevicePool):
            shapes.ensure(encoder, settings.cache, batch_tokens=settings.batch_tokens)
        fleet = (
            engine
            if isinstance(engine, DevicePool)
            else local(encoder, settings.stall_seconds, _prefix(encoder.bundle))
        )
        each = [device.encode for device in fleet.devices for _ in range(device.streams)]
        if isinstance(engine, DevicePool):
            shapes.ensure(encoder, settings.cache, streams=each, batch_tokens=settings.batch_tokens)
        shapes.warm(shapes.CertificateSubject.of(encoder, each))
        model = encoder.bundle.manifest.pipeline
        lanes: PriorityQueue[PendingRequest] = PriorityQueue(settings.batch_tokens)
        workers = BatchExecutor(fleet.devices, model.dimension, encoder.layout, lanes, counts)
        stack.callback(workers.close)
        forward = InferenceClient(model, encoder.tokenizer, admission, workers, counts)
        stack.callback(forward.close)
        return cls(
            encoder, door.remark, fleet, forward, CanaryTarget(workers, CanaryTexts.of(encoder), ShapeWalk.of(encoder))
        )

    @property
    def bundle(self) -> Bundle:
        return self.encoder.bundle

    @property
    def workers(self) -> BatchExecutor:
        return self.forward.workers

    @property
    def golden(self) -> GoldenCheck:
        """At start, of the worst device."""
        return self.fleet.checked


def open_encoder(path: Path, variant: str | None, task: Task, settings: Settings) -> OpenedEncoder:
    """Raises UsageError, UnsafeError, MissingExtra, EngineError, GateError."""
    bundle = Bundle.open(path)
    bundle.require(task)
    settled = ChosenVariant(variant, None) if variant else tune.choose_variant(bundle, settings.cache)
    if settings.workers:
        encoder = processes(
            bundle, settled.variant, settings.workers, settings.streams, settings.stall_seconds, _prefix(bundle)
        )
    else:
        encoder = Encoder.open(bundle, settled.variant, streams=settings.streams, task=task)
    return OpenedEncoder(encoder, settled.remark)


def _prefix(bundle: Bundle) -> str:
    """Of the names of its devices: those of the model that embeds are plain."""
    return "" if bundle.task is Task.EMBED else f"{bundle.task}-"
