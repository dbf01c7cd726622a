"""The shape certificate at export: a variant that is refused is not chosen, and the record is in the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from embedship import shapes
from embedship.bundle import Bundle, ShapeCertificate, WrongShape
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export.gates import shape_certificates
from embedship.export.steps import StepTimer
from embedship.shapes import CertificateSubject


def found(subject: CertificateSubject, refused: set[str]) -> ShapeCertificate:
    """As `certify` answers, of variants that are wrong for every tenth shape, or for none."""
    planned = subject.layout.shapes()
    bad = planned[::10] if subject.encoder.variant.name in refused else []
    wrong = tuple(WrongShape(rows=rows, width=width, likeness=0.5) for rows, width in bad)
    return ShapeCertificate(**shapes.identity(subject), checked=len(planned), wrong=wrong, worst=1.0, seconds=0.1)


def test_the_best_variant_that_is_not_refused_stays_first(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, steps = Bundle.open(bundle), StepTimer(Console(quiet=True))
    ranked = [opened.variant("onnx-int8"), opened.plain]
    with Encoder.open(opened, "onnx-int8") as int8, Encoder.open(opened, "onnx") as plain:
        encoders = {"onnx-int8": int8, "onnx": plain}
        monkeypatch.setattr(shapes, "certify", lambda subject: found(subject, {"onnx-int8"}))
        variants, left = shape_certificates.first(opened.manifest.variants, ranked, encoders, steps)
        assert [each.name for each in left] == ["onnx"]
        recorded = {each.name: each.shapes for each in variants}
        assert recorded["onnx-int8"] is not None
        assert recorded["onnx-int8"].wrong
        assert recorded["onnx"] is not None
        assert shape_certificates.of(variants, "onnx", encoders, steps) == variants
        monkeypatch.setattr(shapes, "certify", lambda subject: found(subject, {"onnx-int8", "onnx"}))
        with pytest.raises(GateError, match="variant onnx gives wrong vectors"):
            shape_certificates.first(opened.manifest.variants, ranked, encoders, steps)
