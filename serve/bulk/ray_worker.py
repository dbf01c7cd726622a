"""The encoder of a node, wherever that is: what it is made from, and what it is asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from embedship import golden, shapes
from embedship.bundle import Bundle
from embedship.device import DeviceAddress
from embedship.encoder import Encoder
from embedship.errors import EmbedshipError, MismatchError, MissingExtra, UsageError
from embedship.serve.bulk.manifest import EncodePlan
from embedship.serve.bulk.shards import EncodedShard, EncoderTraits, ShardJob, encoded


class RayEncoderSpec(NamedTuple):
    """What an encoder on a node is made from."""

    bundle: Path
    digest: str
    release: str
    variant: str
    device: DeviceAddress


class RayEncoder:
    """The encoder of a node. It is opened by a call, so that what is wrong there comes back as a sentence."""

    def __init__(self) -> None:
        self._encoder: Encoder | None = None

    def open(self, order: RayEncoderSpec, streams: int | None) -> EncoderTraits:
        with _placed():
            self._encoder = _opened(order, streams)
            return EncoderTraits.of(self._encoder)

    def encode(self, plan: EncodePlan, job: ShardJob) -> EncodedShard:
        assert self._encoder is not None
        with _placed():
            tokens = self._encoder.tokenizer(job.texts, plan.prompt)
            return encoded(self._encoder, plan, job, tokens, lambda *_: None)


def _opened(order: RayEncoderSpec, streams: int | None) -> Encoder:
    if (here := version("embedship")) != order.release:
        raise MismatchError(f"embedship {here} is installed, and {order.release} where the run was started")
    bundle = Bundle.open(order.bundle)
    if bundle.manifest.digest != order.digest:
        raise MismatchError(f"{order.bundle} is another bundle than where the run was started")
    encoder = Encoder.open(bundle, order.variant, streams=streams, device=str(order.device))
    shapes.ensure(encoder)
    golden.check(encoder)
    return encoder


@contextmanager
def _placed() -> Iterator[None]:
    """Name the node; and raise what can be sent, which MissingExtra cannot."""
    try:
        yield
    except EmbedshipError as error:
        kind = UsageError if isinstance(error, MissingExtra) else type(error)
        raise kind(f"on node {socket.gethostname()}: {error}") from None
