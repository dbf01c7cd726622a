"""OpenVINO's models, read from the float32 ONNX graph: IR as it is, and int8 by NNCF.

Import this after quiet.stay_offline(): both libraries send telemetry as they are imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nncf
import openvino as ov

from embedship.export.onnx import Feed
from embedship.export.quiet import silence
from embedship.export.smooth import STRENGTH


def convert(source: Path, target: Path) -> None:
    """The ONNX graph as OpenVINO IR with float32 weights, not the float16 that `save_model` makes unasked."""
    _save(ov.Core().read_model(source), target)


def quantise(source: Path, target: Path, feeds: Sequence[Feed]) -> dict[str, int]:
    """int8 weights and activations (NNCF), calibrated on every one of `feeds`. Returns the count of FakeQuantize."""
    model = ov.Core().read_model(source)
    with silence():
        quantised = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # NNCF's own 0.95 gives cosine 0.963 to the worst of 225 texts on MiniLM, this 0.986.
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=STRENGTH),
                # A third of the time, and nothing gained: mean cosine 0.9975 with and without.
                disable_bias_correction=True,
            ),
        )
    _save(quantised, target)
    return {"FakeQuantize": sum(op.get_type_name() == "FakeQuantize" for op in quantised.get_ops())}


def _save(model: Any, target: Path) -> None:
    """OpenVINO numbers the constants it makes itself through the whole process; the same model gets the same bytes."""
    for place, op in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{op.get_type_name()}(_\d+)+", op.get_friendly_name()):
            op.set_friendly_name(f"{op.get_type_name()}_{place}")
    target.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, target, compress_to_fp16=False)
