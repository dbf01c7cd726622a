"""The shape certificate at export: of the variant that is chosen, for each costs as long as a minute's work.

The others are certified by `embedship tune` or `verify --all`, or when a server first takes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from embedship import shapes
from embedship.bundle import Variant
from embedship.encoder import Encoder
from embedship.export.steps import StepTimer


def of(variants: Sequence[Variant], name: str, encoders: Mapping[str, Encoder], steps: StepTimer) -> list[Variant]:
    """The variants, the named one certified, too. Raises GateError if too many of its shapes are wrong."""
    kept = _certified(variants, name, encoders[name], steps)
    _require(kept, name, encoders[name])
    return kept


def _certified(variants: Sequence[Variant], name: str, encoder: Encoder, steps: StepTimer) -> list[Variant]:
    if any(each.name == name and each.shapes for each in variants):
        return list(variants)
    with steps.step(f"shapes of {name}"):
        found = shapes.certify(shapes.CertificateSubject.of(encoder))
    steps.say(f"{name}: {shapes.remark(found)}")
    return [msgspec.structs.replace(each, shapes=found) if each.name == name else each for each in variants]


def _require(variants: Sequence[Variant], name: str, encoder: Encoder) -> None:
    found = next(each.shapes for each in variants if each.name == name)
    assert found is not None, "it was certified just now"
    encoder.restrict(shapes.require(found, shapes.CertificateSubject.of(encoder).layout, name), found)
