"""ONNX Runtime's graphs: fused (O3) and static int8, with a count of what was really fused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

from embedship.bundle import Machine
from embedship.export import graph, smooth
from embedship.export.quiet import silence

Feed = dict[str, npt.NDArray[np.int64]]
FP32, O3 = "onnx/model.onnx", "onnx/model_O3.onnx"


def optimise(source: Path, target: Path, config: Any) -> dict[str, int]:
    """O3 as Optimum defines it: transformer fusions and the tanh approximation of GELU.

    `config` is that of the transformers model. Returns how many of each fused operator are in the graph; none where
    the fusions do not know the architecture, which is no error but worth saying (onnxruntime #23864).
    """
    model, fused = _fuse(source, config, multi_head=False)
    graph.save(model, target)
    return fused


def quantise(source: Path, target: Path, config: Any, feeds: Sequence[Feed], machine: Machine) -> dict[str, int]:
    """Static int8, starting from the plain graph: a scale a channel for weights, calibrated ones for activations.

    Only products with a weight matrix are quantised, after smoothing. Attention is fused as MultiHeadAttention and not
    as Attention, because the latter swallows the query, key and value products, which then stay float32.
    """
    model, fused = _fuse(source, config, multi_head=True)
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")
        graph.save(model, prepared)
        smooth.smooth(model, smooth.largest(prepared, feeds))
        names = _declare(model)
        graph.save(model, prepared)
        with silence():
            quantize_static(prepared, quantised, _Feeds(feeds), nodes_to_quantize=names, **_settings(machine))
        graph.save(onnx.load(str(quantised)), target)
    return fused | {"QuantizedMatMul": len(names)}


def _settings(machine: Machine) -> dict[str, Any]:
    arm = "asimd" in machine.isa
    return {
        "quant_format": QuantFormat.QDQ,
        "op_types_to_quantize": ["MatMul"],
        "per_channel": True,
        # Pairs of u8 x s8 products overflow 16 bits where the CPU has no VNNI; with 7-bit weights they cannot.
        "reduce_range": not arm and not {"avx512_vnni", "avx_vnni"} & set(machine.isa),
        "activation_type": QuantType.QInt8 if arm else QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        # Percentiles are no way out: cutting at 99.99% gives mean cosine 0.889, because the outliers carry the meaning.
        "calibrate_method": CalibrationMethod.MinMax,
        # Ranges averaged over texts, not the extremes of all.
        "extra_options": {"CalibMovingAverage": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    }


def int8_path(machine: Machine) -> str:
    """Named for the instruction set it was made for, as sentence-transformers names such files."""
    isa = set(machine.isa)
    if "asimd" in isa:
        suffix = "arm64"
    elif "avx512_vnni" in isa:
        suffix = "avx512_vnni"
    else:
        suffix = "avx512" if "avx512f" in isa else "avx2"
    return f"onnx/model_qint8_{suffix}.onnx"


def _fuse(source: Path, config: Any, multi_head: bool) -> tuple[onnx.ModelProto, dict[str, int]]:
    known = config.model_type if config.model_type in optimizer.MODEL_TYPES else "bert"
    options = FusionOptions(known)
    options.enable_gelu_approximation = True
    options.use_multi_head_attention = multi_head
    with silence():
        fused = optimizer.optimize_model(
            str(source),
            known,
            num_heads=getattr(config, "num_attention_heads", 0),
            hidden_size=getattr(config, "hidden_size", 0),
            optimization_options=options,
            opt_level=0,  # the session optimises again when it loads, for the machine it is on
        )
        fused.topological_sort()
        if not any(opset.domain == "com.microsoft" for opset in fused.model.opset_import):
            fused.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        counts = {name: int(n) for name, n in fused.get_fused_operator_statistics().items() if n}
    return fused.model, counts


def _declare(model: onnx.ModelProto) -> list[str]:
    """Names of all products with a weight matrix, after declaring the type of their other operand.

    The outputs of fused operators have no declared type, and the quantiser silently leaves those activations in
    float32: ONNX Runtime then runs MatMulNBits, slower than float32. The mark keeps it from advising preprocessing.
    """
    weighted = smooth.products(model)
    declared = {value.name for value in model.graph.value_info}
    for name in weighted:
        if name not in declared:
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return [node.name for nodes in weighted.values() for node in nodes]


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)
