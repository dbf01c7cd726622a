"""ONNX Runtime's graphs: the optimisation levels O1..O4, three kinds of int8, and a count of what was fused.

The levels are Optimum's. Its basic and extended rewrites are not stored in O2..O4, because the session makes them
when it loads, for the machine it is on: the fused operators are the same with and without (MiniLM).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel

from embedship.export.silence import silence
from embedship.export.variants import smoothquant, torch_graph
from embedship.export.variants.targets import HardwareTarget

Feed = dict[str, npt.NDArray[np.int64]]
FP32 = "onnx/model.onnx"
# The arithmetic MatMulNBits may use, by its own numbers.
_FLOAT32, _INT8 = 1, 4
# Weights that share a scale. MiniLM over 150 texts, least cosine and speed to plain ONNX: 32 gives 0.9994 and 1.10x,
# 128 gives 0.9986 and 1.27x, a scale a column (DequantizeLinear, which every runtime reads) 0.9991 and 1.08x.
_BLOCK = 32


def basic(source: Path, target: Path, config: Any) -> dict[str, int]:
    """O1: constants folded and dead nodes removed by the session, which does the same to every graph it loads."""
    with silence():
        model = optimizer.optimize_model(str(source), _known(config), opt_level=1, only_onnxruntime=True).model
    torch_graph.save(model, target)
    return {}


def optimise(source: Path, target: Path, config: Any, gelu_approximation: bool) -> dict[str, int]:
    """O2: transformer fusions; O3: and the tanh approximation of GELU.

    `config` is that of the transformers model. Returns how many of each fused operator are in the graph; none where
    the fusions do not know the architecture, which is no error but worth saying (onnxruntime #23864).
    """
    fused = _fuse(source, config, gelu_approximation=gelu_approximation)
    torch_graph.save(fused.model, target)
    return _counts(fused)


def convert_to_float16(source: Path, target: Path, config: Any) -> dict[str, int]:
    """O4: O3 with weights and arithmetic in float16, the outputs in float32. A CPU runs it through casts, slowly."""
    fused = _fuse(source, config)
    counts = _counts(fused)
    with silence():
        fused.convert_float_to_float16(keep_io_types=True)
    torch_graph.save(fused.model, target)
    return counts


def quantise(source: Path, target: Path, config: Any, feeds: Sequence[Feed], isa: HardwareTarget) -> dict[str, int]:
    """Static int8, starting from the plain graph: a scale a channel for weights, calibrated ones for activations.

    Only products with a weight matrix are quantised, after smoothing. Attention is fused as MultiHeadAttention and not
    as Attention, because the latter swallows the query, key and value products, which then stay float32.
    """
    fused = _fuse(source, config, multi_head=True)
    model = fused.model
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        torch_graph.save(model, prepared)
        smoothquant.smooth(model, smoothquant.activation_maxima(prepared, feeds))
    names = _declare(model)
    with _files(model) as (prepared, quantised), silence():
        quantize_static(
            prepared,
            quantised,
            _CalibrationFeeds(feeds),
            nodes_to_quantize=names,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QInt8 if isa is HardwareTarget.ARM64 else QuantType.QUInt8,
            # Percentiles are no way out: the outliers carry the meaning, and cut at 99.99% the mean cosine is 0.889.
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=torch_graph.is_large(model),
            # Ranges averaged over texts, not the extremes of all.
            extra_options={"CalibMovingAverage": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
            **_weights(isa),
        )
        torch_graph.save(onnx.load(str(quantised)), target)
    return _counts(fused) | {"QuantizedMatMul": len(names)}


def quantise_dynamically(source: Path, target: Path, config: Any, isa: HardwareTarget) -> dict[str, int]:
    """Dynamic int8: the scale of an activation is that of its whole batch, padding included (onnxruntime #10111)."""
    fused = _fuse(source, config, multi_head=True)
    names = _declare(fused.model)
    with _files(fused.model) as (prepared, quantised), silence():
        quantize_dynamic(
            prepared,
            quantised,
            nodes_to_quantize=names,
            op_types_to_quantize=["MatMul"],
            use_external_data_format=torch_graph.is_large(fused.model),
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
            **_weights(isa),
        )
        torch_graph.save(onnx.load(str(quantised)), target)
    return _counts(fused) | {"MatMulInteger": len(names)}


def quantise_weights(source: Path, target: Path, config: Any, isa: HardwareTarget) -> dict[str, int]:
    """Weight-only int8 in blocks: activations stay float32, or become int8 row by row where that is exact.

    A row's scale is its own, so no text changes another. In 8 bits, MatMulNBits overflows 16 bits without VNNI just as
    any other product does; there the arithmetic is float32, and the gain is size alone (0.90x the speed on MiniLM).
    """
    fused = _fuse(source, config, multi_head=True)
    with silence():
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits  # it sets up logging as it is imported

        settings = nbits.DefaultWeightOnlyQuantConfig(
            block_size=_BLOCK, is_symmetric=True, accuracy_level=_INT8 if isa.exact else _FLOAT32, bits=8
        )
        quantiser = nbits.MatMulNBitsQuantizer(fused.model, algo_config=settings)
        quantiser.process()
    model = quantiser.model.model
    torch_graph.save(model, target)
    return _counts(fused) | {"MatMulNBits": sum(node.op_type == "MatMulNBits" for node in model.graph.node)}


def _weights(isa: HardwareTarget) -> dict[str, Any]:
    # Pairs of u8 x s8 products overflow 16 bits where the CPU has no VNNI; with 7-bit weights they cannot.
    return {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": not isa.exact}


@contextmanager
def _files(model: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
    """The model as a file, and the place for another: the quantisers take paths."""
    with tempfile.TemporaryDirectory() as folder:
        torch_graph.save(model, Path(folder, "prepared.onnx"))
        yield Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")


def _known(config: Any) -> str:
    return config.model_type if config.model_type in optimizer.MODEL_TYPES else "bert"


def _fuse(source: Path, config: Any, multi_head: bool = False, gelu_approximation: bool = True) -> OnnxModel:
    options = FusionOptions(_known(config))
    options.enable_gelu_approximation = gelu_approximation
    options.use_multi_head_attention = multi_head
    with silence():
        fused = optimizer.optimize_model(
            str(source),
            _known(config),
            num_heads=getattr(config, "num_attention_heads", 0),
            hidden_size=getattr(config, "hidden_size", 0),
            optimization_options=options,
            opt_level=0,
        )
        fused.topological_sort()
    if not any(opset.domain == "com.microsoft" for opset in fused.model.opset_import):
        fused.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return fused


def _counts(fused: OnnxModel) -> dict[str, int]:
    with silence():
        return {name: int(n) for name, n in fused.get_fused_operator_statistics().items() if n}


def _declare(model: onnx.ModelProto) -> list[str]:
    """Names of all products with a weight matrix, after declaring the type of their other operand.

    The outputs of fused operators have no declared type, and the quantiser silently leaves those activations in
    float32: ONNX Runtime then runs MatMulNBits, slower than float32. The mark keeps it from advising preprocessing.
    """
    weighted = smoothquant.products(model)
    declared = {value.name for value in model.graph.value_info}
    for name in weighted:
        if name not in declared:
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return [node.name for nodes in weighted.values() for node in nodes]


class _CalibrationFeeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)
