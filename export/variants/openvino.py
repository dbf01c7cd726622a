"""OpenVINO models, read from the float32 ONNX graph: IR in float32, and three kinds of int8 by NNCF.

Import this module after silence.stay_offline(), because both libraries send telemetry when they are imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov

from embedship.bundle import ParityFloors
from embedship.codes import Vectors, cosine
from embedship.errors import UsageError
from embedship.export.silence import silence
from embedship.export.variants.onnx import Feed
from embedship.export.variants.smoothquant import STRENGTH
from embedship.export.variants.targets import HardwareTarget

_Pair = tuple[Feed, Vectors]
# Not bfloat16, which OpenVINO would use by default on CPUs that have it.
_EXACTLY = {"INFERENCE_PRECISION_HINT": "f32"}


def convert(source: Path, target: Path) -> None:
    """Write the ONNX graph as OpenVINO IR with float32 weights. (`save_model` writes float16 by default.)"""
    _save(ov.Core().read_model(source), target)


def quantise(source: Path, target: Path, feeds: Sequence[Feed], isa: HardwareTarget) -> dict[str, int]:
    """Write int8 weights and activations (NNCF), calibrated on all `feeds`. Returns the FakeQuantize count."""
    with silence():
        model = nncf.quantize(
            ov.Core().read_model(source), nncf.Dataset(feeds), advanced_parameters=_advanced(isa), **_settings(feeds)
        )
    _save(model, target)
    return _count(model, "FakeQuantize")


def quantise_accurately(
    source: Path, target: Path, feeds: Sequence[Feed], isa: HardwareTarget, floors: ParityFloors
) -> dict[str, int]:
    """Like `quantise`, but then change products back to float32, the most harmful first, until `floors` are reached.

    If they are reached at once, the result equals that of `quantise`. To rank the products, the model runs over `feeds`
    once per product. Raises UsageError for a floor of 1, which allows no error.
    """
    if not max(floors.minimum, floors.mean) < 1:
        raise UsageError(
            "openvino-int8-accuracy needs floors below 1 (--floor int8-minimum=..., --floor int8-mean=...)"
        )
    model = ov.Core().read_model(source)
    with silence():
        quantised = nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset(feeds),
            nncf.Dataset(_pairs(model, feeds), lambda pair: pair[0]),
            _margin(floors),
            max_drop=1.0,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_quantization_parameters=_advanced(isa),
            **_settings(feeds),
        )
    _save(quantised, target)
    return _count(quantised, "FakeQuantize")


def quantise_weights(source: Path, target: Path) -> dict[str, int]:
    """Write int8 weights with one scale per row, embeddings included. OpenVINO picks the arithmetic at run time."""
    with silence():
        model = nncf.compress_weights(ov.Core().read_model(source), mode=nncf.CompressWeightsMode.INT8_SYM)
    _save(model, target)
    # Only constants: an operator with several outputs (the split of GPT-2's query, key and value) has no element type.
    constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    return {"CompressedWeight": sum(op.get_element_type() == ov.Type.i8 for op in constants)}


def _pairs(model: Any, feeds: Sequence[Feed]) -> list[_Pair]:
    """Return each text with its (1, dim) float32 vector before quantisation."""
    compiled = ov.compile_model(model, "CPU", _EXACTLY)
    return [(feed, _vectors(compiled, feed)) for feed in feeds]


def _vectors(model: Any, feed: Feed) -> Vectors:
    return np.array(model(feed)["sentence_embedding"], dtype=np.float32)


def _margin(floors: ParityFloors) -> Callable[[Any, Iterable[_Pair]], tuple[float, list[float]]]:
    """Return NNCF's measure: how much of the distance to the floors is left (1: all, 0: none), and the cosines."""

    def measure(model: Any, pairs: Iterable[_Pair]) -> tuple[float, list[float]]:
        cosines = [float(cosine(_vectors(model, feed), vector)[0]) for feed, vector in pairs]
        worst, mean = min(cosines), sum(cosines) / len(cosines)
        margins = [(worst - floors.minimum) / (1 - floors.minimum), (mean - floors.mean) / (1 - floors.mean)]
        return min(margins), cosines

    return measure


def _settings(feeds: Sequence[Feed]) -> dict[str, Any]:
    return {
        "subset_size": len(feeds),
        "model_type": nncf.ModelType.TRANSFORMER,
        "preset": nncf.QuantizationPreset.MIXED,
    }


def _advanced(isa: HardwareTarget) -> Any:
    overflow = nncf.quantization.advanced_parameters.OverflowFix
    return nncf.AdvancedQuantizationParameters(
        # Use 7-bit weights where pairs of products would overflow 16 bits.
        overflow_fix=overflow.DISABLE if isa.exact else overflow.ENABLE,
        # NNCF's default of 0.95 gives the worst of 225 texts cosine 0.963 on MiniLM; this value gives 0.986.
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=STRENGTH),
        # Turned off: it takes a third of the time and improves nothing (mean cosine 0.9975 with and without it).
        disable_bias_correction=True,
    )


def _count(model: Any, kind: str) -> dict[str, int]:
    return {kind: sum(op.get_type_name() == kind for op in model.get_ops())}


def _save(model: Any, target: Path) -> None:
    """Save a model so that the same model gives the same bytes: OpenVINO numbers constants across the process."""
    for place, op in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{op.get_type_name()}(_\d+)+", op.get_friendly_name()):
            op.set_friendly_name(f"{op.get_type_name()}_{place}")
    target.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, target, compress_to_fp16=False)
