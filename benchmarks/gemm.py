"""Measures the machine's peak matrix multiplication rate through OpenVINO, and the operations a model needs.

It runs a large MatMul with constant weights, one per stream and all streams at once, as the engine does: in float32,
bfloat16 and int8 (with fake quantisation, which OpenVINO converts into int8 kernels).
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from embedship import hardware
from embedship.engine.openvino import ov  # its import order matters: see there

_SIZE, _ROWS = 1536, 1536
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def peak(precision: str, seconds: float) -> float:
    """Return multiplications and additions per second, the best of three periods."""
    streams = hardware.streams()
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
        "ENABLE_CPU_PINNING": "NO",
    }
    compiled = ov.Core().compile_model(_model(precision == "int8"), "CPU", settings)
    values = np.random.default_rng(0).standard_normal((_ROWS, _SIZE), dtype=np.float32)
    requests = [compiled.create_infer_request() for _ in range(streams)]
    with ThreadPoolExecutor(streams) as threads:
        return max(sum(threads.map(lambda r: _rate(r, values, seconds / 3), requests)) for _ in range(3))


def _rate(request: ov.InferRequest, values: np.ndarray, seconds: float) -> float:
    request.infer([values], share_inputs=True)
    began, times = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds or not times:
        request.infer([values], share_inputs=True)
        times += 1
    return times * 4 * 2.0 * _ROWS * _SIZE * _SIZE / took


def _model(quantised: bool) -> ov.Model:
    """Return a graph of four products in sequence, so that input and output cost little in comparison."""
    from openvino import opset13 as op

    def int8(node: ov.Node, low: float, levels: int) -> ov.Node:
        low_, high = np.float32(low), np.float32(-low)
        return op.fake_quantize(node, low_, high, low_, high, levels)

    rng = np.random.default_rng(1)
    source = op.parameter([_ROWS, _SIZE], np.float32)
    node = source
    for _ in range(4):
        weights = op.constant(rng.standard_normal((_SIZE, _SIZE), dtype=np.float32) / np.sqrt(_SIZE).astype(np.float32))
        if quantised:
            node = op.matmul(int8(node, -4.0, 256), int8(weights, -0.15, 255), False, False)
        else:
            node = op.matmul(node, weights, False, False)
    return ov.Model([node], [source])


def needed(config: Path, lengths: list[int]) -> float:
    """Return the multiplications and additions of a BERT encoder for texts of these token counts, without padding."""
    model = json.loads(config.read_text())
    hidden, inner, layers = model["hidden_size"], model["intermediate_size"], model["num_hidden_layers"]
    linear = 2 * layers * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 2 * layers * 2 * hidden
    return float(sum(linear * n + attention * n * n for n in lengths))
