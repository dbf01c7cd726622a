"""Shape certificate at export. Only the chosen variant is certified, because each one takes up to a minute.

`embedship tune` and `verify --all` certify the others, and so does a server that starts with one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from embedship import shapes
from embedship.bundle import Variant
from embedship.encoder import Encoder
from embedship.export.steps import StepTimer


def certify_variant(
    variants: Sequence[Variant], name: str, encoders: Mapping[str, Encoder], steps: StepTimer
) -> list[Variant]:
    """Certify the named variant and return all variants. Raises GateError if too many of its shapes are wrong."""
    certified = _certified(variants, name, encoders[name], steps)
    _require(certified, name, encoders[name])
    return certified


def _certified(variants: Sequence[Variant], name: str, encoder: Encoder, steps: StepTimer) -> list[Variant]:
    if any(each.name == name and each.shapes for each in variants):
        return list(variants)
    with steps.step(f"shapes of {name}"):
        certificate = shapes.certify(shapes.CertificateSubject.from_encoder(encoder))
    steps.print_line(f"{name}: {shapes.describe_certificate(certificate)}")
    return [msgspec.structs.replace(each, shapes=certificate) if each.name == name else each for each in variants]


def _require(variants: Sequence[Variant], name: str, encoder: Encoder) -> None:
    certificate = next(each.shapes for each in variants if each.name == name)
    assert certificate is not None, "it was certified just now"
    encoder.restrict(
        shapes.require(certificate, shapes.CertificateSubject.from_encoder(encoder).layout, name), certificate
    )
