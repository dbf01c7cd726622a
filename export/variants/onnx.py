"""ONNX Runtime graphs: optimisation levels O1 to O4, three kinds of int8, and the count of fused operators.

The levels are Optimum's. Files of O2 to O4 do not contain ONNX Runtime's basic and extended rewrites, because the
session applies them at load time for its own machine. With and without them the fused operators are the same (MiniLM).
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

from embedship.errors import UsageError
from embedship.export.silence import silence
from embedship.export.variants import smoothquant, torch_graph
from embedship.export.variants.targets import HardwareTarget

# Model types whose fusions expect the functions of the dynamo exporter, and fail on other graphs (1.31).
_DYNAMO_ONLY = ("phi",)
Feed = dict[str, npt.NDArray[np.int64]]
FP32 = "onnx/model.onnx"
# Arithmetic of MatMulNBits, by ONNX Runtime's own numbers.
_FLOAT32, _INT8 = 1, 4
# Number of weights per scale. MiniLM over 150 texts, lowest cosine and speed relative to plain ONNX: 32 gives 0.9994
# and 1.10x; 128 gives 0.9986 and 1.27x; one scale per column (DequantizeLinear, which every runtime reads) gives 0.9991
# and 1.08x.
_BLOCK = 32


def basic(source: Path, target: Path, config: Any) -> dict[str, int]:
    """Write O1: constants folded and dead nodes removed by the session, which does this to every graph it loads."""
    with silence():
        model = optimizer.optimize_model(str(source), _model_type(config), opt_level=1, only_onnxruntime=True).model
    torch_graph.save(model, target)
    return {}


def optimise(source: Path, target: Path, config: Any, gelu_approximation: bool) -> dict[str, int]:
    """Write O2 (transformer fusions) or O3 (also the tanh approximation of GELU).

    `config` is the config of the transformers model. Returns the number of each fused operator. The result is empty if
    the fusions do not know the architecture; that is reported but is not an error (onnxruntime #23864).
    """
    fused = _fuse(source, config, gelu_approximation=gelu_approximation)
    torch_graph.save(fused.model, target)
    return _counts(fused)


def convert_to_float16(source: Path, target: Path, config: Any) -> dict[str, int]:
    """Write O4: O3 with float16 weights and arithmetic, and float32 outputs. A CPU runs it slowly, through casts."""
    fused = _fuse(source, config)
    counts = _counts(fused)
    with silence():
        fused.convert_float_to_float16(keep_io_types=True)
    torch_graph.save(fused.model, target)
    return counts


def quantise(source: Path, target: Path, config: Any, feeds: Sequence[Feed], isa: HardwareTarget) -> dict[str, int]:
    """Write static int8 from the plain graph: one scale per channel for weights, calibrated scales for activations.

    Only products with a weight matrix are quantised, after smoothing. Attention is fused as MultiHeadAttention, not as
    Attention, which would contain the query, key and value products and keep them in float32.
    """
    fused = _fuse(source, config, multi_head=True)
    model = fused.model
    _require_products(model)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        torch_graph.save(model, prepared)
        smoothquant.smooth(model, smoothquant.activation_maxima(prepared, feeds))
    names = _declare(model)
    with _quantiser_files(model) as (prepared, quantised), silence():
        quantize_static(
            prepared,
            quantised,
            _CalibrationFeeds(feeds),
            nodes_to_quantize=names,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QInt8 if isa is HardwareTarget.ARM64 else QuantType.QUInt8,
            # Percentiles do not help: outliers carry the meaning, and clipping at 99.99% gives a mean cosine of 0.889.
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=torch_graph.is_large(model),
            # Use ranges averaged over texts instead of the extremes of all texts.
            extra_options={"CalibMovingAverage": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
            **_weights(isa),
        )
        torch_graph.save(onnx.load(str(quantised)), target)
    return _counts(fused) | {"QuantizedMatMul": len(names)}


def quantise_dynamically(source: Path, target: Path, config: Any, isa: HardwareTarget) -> dict[str, int]:
    """Write dynamic int8. An activation's scale depends on its whole batch, padding included (onnxruntime #10111)."""
    fused = _fuse(source, config, multi_head=True)
    _require_products(fused.model)
    names = _declare(fused.model)
    with _quantiser_files(fused.model) as (prepared, quantised), silence():
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
    """Write weight-only int8 in blocks. Activations stay float32, or become int8 row by row where that is exact.

    Each row has its own scale, so a vector does not depend on other texts. Without VNNI, MatMulNBits in 8 bits
    overflows 16 bits like any other product. On such CPUs the arithmetic is float32, and only the size is smaller
    (0.90x the speed on MiniLM).
    """
    fused = _fuse(source, config, multi_head=True)
    _require_products(fused.model)
    with silence():
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits  # configures logging when imported

        settings = nbits.DefaultWeightOnlyQuantConfig(
            block_size=_BLOCK, is_symmetric=True, accuracy_level=_INT8 if isa.exact else _FLOAT32, bits=8
        )
        quantiser = nbits.MatMulNBitsQuantizer(fused.model, algo_config=settings)
        quantiser.process()
    model = quantiser.model.model
    torch_graph.save(model, target)
    return _counts(fused) | {"MatMulNBits": sum(node.op_type == "MatMulNBits" for node in model.graph.node)}


def _require_products(model: onnx.ModelProto) -> None:
    """Raise UsageError for a graph without a product to quantise, such as that of a static embedding."""
    if not smoothquant.products(model):
        raise UsageError("this model has no product with a weight matrix, so int8 by ONNX Runtime changes nothing: "
                         "leave the variant out")  # fmt: skip


def _weights(isa: HardwareTarget) -> dict[str, Any]:
    # Pairs of u8 x s8 products overflow 16 bits on CPUs without VNNI; with 7-bit weights they cannot.
    return {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": not isa.exact}


@contextmanager
def _quantiser_files(model: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
    """Write the model to a file and yield it with a path for the result, because the quantisers take paths."""
    with tempfile.TemporaryDirectory() as folder:
        torch_graph.save(model, Path(folder, "prepared.onnx"))
        yield Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")


def _model_type(config: Any) -> str:
    known = config.model_type in optimizer.MODEL_TYPES and config.model_type not in _DYNAMO_ONLY
    return config.model_type if known else "bert"


def _fuse(source: Path, config: Any, multi_head: bool = False, gelu_approximation: bool = True) -> OnnxModel:
    options = FusionOptions(_model_type(config))
    options.enable_gelu_approximation = gelu_approximation
    options.use_multi_head_attention = multi_head
    with silence():
        fused = optimizer.optimize_model(
            str(source),
            _model_type(config),
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
    """Declare the type of the activation of each product with a weight matrix, and return the names of the products.

    The outputs of fused operators have no declared type. Without one, the quantiser leaves these activations in float32
    and gives no warning, and ONNX Runtime runs MatMulNBits, which is slower than float32. The model property suppresses
    the quantiser's advice to preprocess the model.
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
