"""Subject of a shape certificate: one variant on its streams, with the shapes that its batches may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from embedship.batches import Batch, BatchLayout
from embedship.bundle import Bundle, ShapeCertificate, Variant
from embedship.codes import Vectors
from embedship.engine.protocol import Engine
from embedship.golden_texts import batch_invariance_floor
from embedship.tokens import Tokenizer

Encode = Callable[[Batch], Vectors]


class CertifiedEncoder(Protocol):
    """The part of `embedship.encoder.Encoder` that is used here. The encoder imports this package."""

    bundle: Bundle
    variant: Variant
    tokenizer: Tokenizer
    engine: Engine
    layout: BatchLayout
    device: str

    def restrict(self, layout: BatchLayout, certificate: ShapeCertificate) -> None:
        """Use only the shapes of `layout` from now on. `certificate` says why."""


class CertificateSubject(NamedTuple):
    """The subject of a certificate: an encoder's variant, computed by `streams` in the shapes of `layout`."""

    encoder: CertifiedEncoder
    streams: tuple[Encode, ...]
    layout: BatchLayout

    @classmethod
    def from_encoder(
        cls, encoder: CertifiedEncoder, streams: Sequence[Encode] = (), batch_tokens: int = 0
    ) -> CertificateSubject:
        """Return the subject of an encoder.

        `streams` are by default those of its engine. `batch_tokens` above the usual budget adds larger shapes.
        """
        layout = replace(encoder.layout, wrong=frozenset(), budget=max(encoder.layout.budget, batch_tokens))
        return cls(encoder, tuple(streams) or (encoder.engine.encode,) * encoder.engine.streams, layout)

    @property
    def floor(self) -> float:
        """The lowest accepted likeness between a text's vectors in two shapes."""
        return batch_invariance_floor(
            self.encoder.variant, self.encoder.bundle.manifest.floors[self.encoder.engine.precision]
        )
