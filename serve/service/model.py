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
from embedship.serve.batching.admission import Admission
from embedship.serve.batching.executor import Workers
from embedship.serve.batching.model_client import Forward
from embedship.serve.batching.pending import Ticket
from embedship.serve.batching.priority_queue import Lanes
from embedship.serve.devices.fleet import Fleet, local, processes
from embedship.serve.service.canaries import Choir, Songs
from embedship.serve.service.shape_walk import Walk
from embedship.serve.settings import Settings
from embedship.serve.telemetry.metrics import Counts
from embedship.tune import Settled


class Door(NamedTuple):
    """The encoder of a bundle, and what the log should say of how its variant was chosen."""

    encoder: Encoder
    remark: str | None


@dataclass(frozen=True, slots=True)
class Running:
    encoder: Encoder
    remark: str | None
    fleet: Fleet
    forward: Forward
    choir: Choir

    @classmethod
    def open(cls, door: Door, settings: Settings, admission: Admission, counts: Counts, stack: ExitStack) -> Self:
        """Prove every device with the golden texts, and the shapes of batches, if they are not certified here.

        What was opened, the encoder too, is closed with `stack`.

        Raises EngineError, GateError.
        """
        encoder = stack.enter_context(door.encoder)
        # An encoder over worker processes is a fleet already; the streams of any other become one.
        engine = encoder.engine
        if not isinstance(engine, Fleet):
            shapes.ensure(encoder, settings.cache, batch_tokens=settings.batch_tokens)
        fleet = engine if isinstance(engine, Fleet) else local(encoder, settings.stall_seconds, _prefix(encoder.bundle))
        each = [device.encode for device in fleet.devices for _ in range(device.streams)]
        if isinstance(engine, Fleet):
            shapes.ensure(encoder, settings.cache, streams=each, batch_tokens=settings.batch_tokens)
        shapes.warm(shapes.Subject.of(encoder, each))
        model = encoder.bundle.manifest.pipeline
        lanes: Lanes[Ticket] = Lanes(settings.batch_tokens)
        workers = Workers(fleet.devices, model.dimension, encoder.layout, lanes, counts)
        stack.callback(workers.close)
        forward = Forward(model, encoder.tokenizer, admission, workers, counts)
        stack.callback(forward.close)
        return cls(encoder, door.remark, fleet, forward, Choir(workers, Songs.of(encoder), Walk.of(encoder)))

    @property
    def bundle(self) -> Bundle:
        return self.encoder.bundle

    @property
    def workers(self) -> Workers:
        return self.forward.workers

    @property
    def golden(self) -> GoldenCheck:
        """At start, of the worst device."""
        return self.fleet.checked


def door(path: Path, variant: str | None, task: Task, settings: Settings) -> Door:
    """Raises UsageError, UnsafeError, MissingExtra, EngineError, GateError."""
    bundle = Bundle.open(path)
    bundle.require(task)
    settled = Settled(variant, None) if variant else tune.settle(bundle, settings.cache)
    if settings.workers:
        encoder = processes(
            bundle, settled.variant, settings.workers, settings.streams, settings.stall_seconds, _prefix(bundle)
        )
    else:
        encoder = Encoder.open(bundle, settled.variant, streams=settings.streams, task=task)
    return Door(encoder, settled.remark)


def _prefix(bundle: Bundle) -> str:
    """Of the names of its devices: those of the model that embeds are plain."""
    return "" if bundle.task is Task.EMBED else f"{bundle.task}-"
