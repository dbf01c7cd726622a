"""Loaded model: a bundle with one variant that is loaded and verified, and the queue of its devices."""

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
    """The encoder of a bundle, and a message for the log about how its variant was chosen."""

    encoder: Encoder
    warning: str | None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to encode, with its devices, queue and canary texts."""

    encoder: Encoder
    warning: str | None
    pool: DevicePool
    inference: InferenceClient
    canary_target: CanaryTarget

    @classmethod
    def open(
        cls,
        opened: OpenedEncoder,
        settings: Settings,
        admission: AdmissionController,
        counts: ModelMetrics,
        stack: ExitStack,
    ) -> Self:
        """Verify every device with the golden texts, and the batch shapes if they are not certified on this machine.

        `stack` closes the encoder and everything that this method opens. Raises EngineError, GateError.
        """
        encoder = stack.enter_context(opened.encoder)
        # The engine of an encoder with worker processes is already a DevicePool. Otherwise its streams become devices.
        engine = encoder.engine
        if not isinstance(engine, DevicePool):
            shapes.ensure(encoder, settings.cache, batch_tokens=settings.batch_tokens)
        pool = (
            engine
            if isinstance(engine, DevicePool)
            else local(encoder, settings.stall_seconds, _device_prefix(encoder.bundle))
        )
        encode_functions = [device.encode for device in pool.devices for _ in range(device.streams)]
        if isinstance(engine, DevicePool):
            shapes.ensure(encoder, settings.cache, streams=encode_functions, batch_tokens=settings.batch_tokens)
        shapes.warm(shapes.CertificateSubject.from_encoder(encoder, encode_functions))
        model = encoder.bundle.manifest.pipeline
        queue: PriorityQueue[PendingRequest] = PriorityQueue(settings.batch_tokens)
        workers = BatchExecutor(pool.devices, model.dimension, encoder.layout, queue, counts)
        stack.callback(workers.close)
        inference = InferenceClient(model, encoder.tokenizer, admission, workers, counts)
        stack.callback(inference.close)
        return cls(
            encoder,
            opened.warning,
            pool,
            inference,
            CanaryTarget(workers, CanaryTexts.from_encoder(encoder), ShapeWalk.from_encoder(encoder)),
        )

    @property
    def bundle(self) -> Bundle:
        return self.encoder.bundle

    @property
    def workers(self) -> BatchExecutor:
        return self.inference.workers

    @property
    def golden(self) -> GoldenCheck:
        """Result of the golden check at startup: the lowest cosines among all devices."""
        return self.pool.checked


def open_model(
    path: Path,
    variant: str | None,
    task: Task,
    settings: Settings,
    admission: AdmissionController,
    counts: ModelMetrics,
    stack: ExitStack,
) -> LoadedModel:
    """Open the variant `variant` of a bundle; None: the best variant whose vectors are right on this machine.

    Raises UsageError, UnsafeError, MissingExtra, EngineError, GateError.
    """
    bundle = Bundle.open(path)
    bundle.require(task)

    def open_variant(chosen: ChosenVariant) -> LoadedModel:
        with ExitStack() as own:
            model = LoadedModel.open(_open_encoder(bundle, chosen, settings), settings, admission, counts, own)
            stack.enter_context(own.pop_all())
        return model

    return (
        open_variant(ChosenVariant(variant, None))
        if variant
        else tune.open_chosen(bundle, settings.cache, open_variant)
    )


def _open_encoder(bundle: Bundle, chosen: ChosenVariant, settings: Settings) -> OpenedEncoder:
    if settings.workers:
        encoder = processes(
            bundle, chosen.variant, settings.workers, settings.streams, settings.stall_seconds, _device_prefix(bundle)
        )
    else:
        encoder = Encoder.open(bundle, chosen.variant, streams=settings.streams, task=bundle.task)
    return OpenedEncoder(encoder, chosen.warning)


def _device_prefix(bundle: Bundle) -> str:
    """Return the prefix of device names: empty for the embedding model, `rerank-` for the re-ranker."""
    return "" if bundle.task is Task.EMBED else f"{bundle.task}-"
