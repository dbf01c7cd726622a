"""Ray actor that runs an encoder on a node of the cluster."""

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
from embedship.serve.bulk.shards import EncodedShard, EncoderTraits, ShardJob, encode_shard


class RayEncoderSpec(NamedTuple):
    """Arguments to open an encoder on a node: bundle folder and digest, embedship version, variant and device."""

    bundle: Path
    digest: str
    release: str
    variant: str
    device: DeviceAddress


class RayEncoder:
    """Encoder of one node. `open` is a separate call, so that its errors are returned to the caller."""

    def __init__(self) -> None:
        self._encoder: Encoder | None = None

    def open(self, spec: RayEncoderSpec, streams: int | None) -> EncoderTraits:
        """Open and check the encoder. Raises MismatchError if version or bundle differ, and errors of the checks."""
        with _errors_name_node():
            self._encoder = _open_encoder(spec, streams)
            return EncoderTraits.from_encoder(self._encoder)

    def encode(self, plan: EncodePlan, job: ShardJob) -> EncodedShard:
        assert self._encoder is not None
        with _errors_name_node():
            tokens = self._encoder.tokenizer(job.texts, plan.prompt)
            return encode_shard(self._encoder, plan, job, tokens, lambda *_: None)


def _open_encoder(spec: RayEncoderSpec, streams: int | None) -> Encoder:
    if (installed := version("embedship")) != spec.release:
        raise MismatchError(f"embedship {installed} is installed, but the run was started with {spec.release}")
    bundle = Bundle.open(spec.bundle)
    if bundle.manifest.digest != spec.digest:
        raise MismatchError(f"{spec.bundle} is a different bundle from the one that the run was started with")
    encoder = Encoder.open(bundle, spec.variant, streams=streams, device=str(spec.device))
    shapes.ensure(encoder)
    golden.check(encoder)
    return encoder


@contextmanager
def _errors_name_node() -> Iterator[None]:
    """Add the node's name to errors. MissingExtra becomes UsageError, because it cannot be pickled."""
    try:
        yield
    except EmbedshipError as error:
        kind = UsageError if isinstance(error, MissingExtra) else type(error)
        raise kind(f"on node {socket.gethostname()}: {error}") from None
