"""The shape certificate at export: a variant that is refused is not chosen, and the record is in the bundle."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from embedship import shapes
from embedship.bundle import Bundle, ExportStage, ShapeCertificate, WrongShape
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export.build import ExportRun
from embedship.export.gates import shape_certificates
from embedship.export.steps import StepTimer
from embedship.export.variant_failures import VariantFailures
from embedship.shapes import CertificateSubject


def found(subject: CertificateSubject, refused: set[str]) -> ShapeCertificate:
    """As `certify` answers, of variants that are wrong for every tenth shape, or for none."""
    planned = subject.layout.shapes()
    bad = planned[::10] if subject.encoder.variant.name in refused else []
    wrong = tuple(WrongShape(rows=rows, width=width, likeness=0.5) for rows, width in bad)
    return ShapeCertificate(**shapes.identity(subject), checked=len(planned), wrong=wrong, worst=1.0, seconds=0.1)


def test_a_refused_variant_stops_at_once_and_a_right_one_is_recorded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, steps = Bundle.open(bundle), StepTimer(Console(quiet=True))
    variants = [msgspec.structs.replace(each, shapes=None) for each in opened.manifest.variants]
    monkeypatch.setattr(shapes, "certify", lambda subject: found(subject, {"onnx-int8"}))
    with Encoder.open(opened, "onnx-int8") as int8, Encoder.open(opened, "onnx") as plain:
        encoders = {"onnx-int8": int8, "onnx": plain}
        with pytest.raises(GateError, match="variant onnx-int8 gives wrong vectors"):
            shape_certificates.certify_variant(variants, "onnx-int8", encoders, steps)
        certified = shape_certificates.certify_variant(variants, "onnx", encoders, steps)
        recorded = {each.name: each.shapes for each in certified}
        assert recorded["onnx"] is not None
        assert recorded["onnx"].wrong == ()
        assert recorded["onnx-int8"] is None
        assert shape_certificates.certify_variant(certified, "onnx", encoders, steps) == certified


def test_an_export_takes_the_next_variant_if_the_best_one_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, steps = Bundle.open(bundle), StepTimer(Console(quiet=True))
    variants = [msgspec.structs.replace(each, shapes=None) for each in opened.manifest.variants]
    run = object.__new__(ExportRun)
    run.steps = steps
    run.failures = VariantFailures(tmp_path, ["onnx", "onnx-int8"], False, steps)
    monkeypatch.setattr(shapes, "certify", lambda subject: found(subject, {"onnx-int8"}))
    with Encoder.open(opened, "onnx-int8") as int8, Encoder.open(opened, "onnx") as plain:
        encoders = {"onnx-int8": int8, "onnx": plain}
        _, ranked = run._certify(variants, ["onnx-int8", "onnx"], encoders)
        assert ranked == ["onnx"]
        assert [(each.name, each.stage) for each in run.failures.left_out] == [("onnx-int8", ExportStage.SHAPES)]
        monkeypatch.setattr(shapes, "certify", lambda subject: found(subject, {"onnx"}))
        with pytest.raises(GateError, match="No bundle was written"):
            run._certify(variants, ["onnx"], encoders)
