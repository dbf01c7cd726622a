"""SmoothQuant for ONNX: moves outliers of activations into the weights, which have one scale per channel.

In a transformer's activations, a few channels are far larger than the rest and carry much of the meaning. They
determine the single int8 scale of the tensor. SmoothQuant divides X by s and multiplies W by s. This does not change
the product, X W = (X / s)(s W), with s_j = max|X_j|^a / max|W_j|^(1-a) (Xiao et al. 2023, arXiv:2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from embedship.export.variants import torch_graph

# The exponent a. Cosine of MiniLM to the checkpoint over 213 texts, minimum and mean:
#   without SmoothQuant: 0.961, 0.991
#   0.5:                 0.965, 0.988
#   0.6:                 0.990, 0.996
#   0.8:                 0.994, 0.998
#   0.9:                 0.978, 0.998
# It costs 2% of the speed: one multiplication per activation.
STRENGTH = 0.8
_SMALLEST = 1e-5

Row = npt.NDArray[np.float32]


def products(model: onnx.ModelProto) -> dict[str, list[Any]]:
    """Return the MatMul nodes with a constant right side, by the name of their left side.

    A product of two constants (DeBERTa's relative positions) does not depend on the text and is left out.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants and node.input[0] not in constants:
            nodes.setdefault(node.input[0], []).append(node)
    return nodes


def activation_maxima(path: Path, feeds: Iterable[Mapping[str, object]]) -> dict[str, Row]:
    """Return max|X_j| over all feeds for the left side X of each product: (channels,) float32 by name.

    Writes a copy of the model next to `path`, so `path` must be in a temporary folder.
    """
    model = onnx.load(str(path))
    names = list(products(model))
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    watched = path.with_name("watched.onnx")
    torch_graph.save(model, watched)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(watched), options, providers=["CPUExecutionProvider"])
    maxima: dict[str, Row] = {}
    for feed in feeds:
        for name, values in zip(names, session.run(names, feed), strict=True):
            peak = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            maxima[name] = np.maximum(maxima[name], peak) if name in maxima else peak
    return maxima


def smooth(model: onnx.ModelProto, peaks: Mapping[str, Row], strength: float = STRENGTH) -> None:
    """Scale the left side of each product down and its weights up, in place. The products do not change."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    users = _users(model)
    scaling: dict[str, Any] = {}
    for name, nodes in products(model).items():
        if any(users[node.input[1]] > 1 for node in nodes):
            continue  # a matrix that is used twice would be scaled twice
        matrices = [numpy_helper.to_array(weights[node.input[1]]) for node in nodes]
        scale = _scale(peaks[name], matrices, strength)
        for node, matrix in zip(nodes, matrices, strict=True):
            weights[node.input[1]].CopyFrom(numpy_helper.from_array(matrix * scale[:, None], node.input[1]))
            node.input[0] = f"{name}_smooth"
        model.graph.initializer.append(numpy_helper.from_array(1 / scale, f"{name}_scale"))
        scaling[name] = helper.make_node("Mul", [name, f"{name}_scale"], [f"{name}_smooth"], f"{name}/Smooth")
    _insert(model, scaling)


def _scale(peak: Row, matrices: list[Row], strength: float) -> Row:
    widest = np.maximum.reduce([np.abs(matrix).max(axis=1) for matrix in matrices])
    log = strength * np.log(np.maximum(peak, _SMALLEST)) - (1 - strength) * np.log(np.maximum(widest, _SMALLEST))
    return np.asarray(np.exp(log - log.mean()), dtype=np.float32)


def _users(model: onnx.ModelProto) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _insert(model: onnx.ModelProto, after: Mapping[str, Any]) -> None:
    """Insert each new node directly after the node that makes its input, because ONNX nodes are in execution order."""
    ordered = []
    for node in model.graph.node:
        ordered += [node, *(after[name] for name in node.output if name in after)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)
