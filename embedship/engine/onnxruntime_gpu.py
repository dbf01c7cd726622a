"""ONNX Runtime on NVIDIA GPUs, through CUDA or TensorRT.

Written after the documentation of ONNX Runtime 1.31 and not yet run on a GPU: see docs/performance.md.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from embedship.batches import Batch
from embedship.bundle import ModelSpec, Precision
from embedship.codes import Vectors
from embedship.device import DeviceAddress, DeviceKind
from embedship.engine.buckets import pad_to_bucket
from embedship.engine.inputs import feed
from embedship.engine.onnxruntime import FAILURES
from embedship.errors import EngineError, MissingExtra, install

try:
    import onnxruntime as ort
except ImportError:
    raise MissingExtra("onnxruntime", "gpu") from None

_PROVIDERS = {DeviceKind.CUDA: "CUDAExecutionProvider", DeviceKind.TENSORRT: "TensorrtExecutionProvider"}


class OnnxRuntimeGpuEngine:
    """One session, used by `streams` threads: while one batch computes, the inputs of the next are copied.

    Inputs and outputs are bound, so that ONNX Runtime neither guesses where they live nor copies them twice; batches
    come in few shapes (`buckets`), so that its allocator hands the same memory out again and TensorRT builds few plans.
    """

    def __init__(
        self, path: Path, pipeline: ModelSpec, weights: Precision, streams: int, device: DeviceAddress
    ) -> None:
        provider = _PROVIDERS[device.kind]
        if provider not in ort.get_available_providers():
            raise EngineError(
                f"{device}: this ONNX Runtime ({ort.__version__}) has no {provider}: install onnxruntime-gpu, not "
                f"onnxruntime: in an environment of its own, {install('gpu')}"
            )
        ort.preload_dlls()  # CUDA and cuDNN of NVIDIA's wheels, which [gpu] brings and the loader would not find
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=_providers(device, weights))
        except FAILURES as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path.name} on {device}: {error}") from error
        # It takes the CPU, silently, where the driver or cuDNN is missing.
        if provider not in self._session.get_providers():
            raise EngineError(f"{device} cannot be used: the NVIDIA driver, CUDA or cuDNN is missing or too old for it")
        self._inputs = pipeline.inputs
        self._output = pipeline.task.output
        self._pad_id = pipeline.pad_id
        self._place = ("cuda", device.ordinal)
        self.streams = streams
        self.precision = weights

    def encode(self, batch: Batch) -> Vectors:
        try:
            binding = self._session.io_binding()
            for name, values in feed(pad_to_bucket(batch, self._pad_id), self._inputs).items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values, *self._place))
            binding.bind_output(self._output, *self._place)
            self._session.run_with_iobinding(binding)
            (vectors,) = binding.copy_outputs_to_cpu()
        except FAILURES as error:
            raise EngineError(f"ONNX Runtime failed on a batch of {len(batch)}: {error}") from error
        return np.asarray(vectors[: len(batch)], dtype=np.float32)

    def close(self) -> None:
        del self._session


def _providers(device: DeviceAddress, weights: Precision) -> list[tuple[str, dict[str, Any]]]:
    """In the order they are asked; what TensorRT leaves goes to CUDA, and shape arithmetic to the CPU."""
    cuda = {
        "device_id": device.ordinal,
        # Doubling, the default, keeps up to twice what the largest batch needed.
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 has 10 bits of mantissa: no float32 that the gate would recognise.
        "use_tf32": int(weights is not Precision.FLOAT32),
    }
    chain = [("CUDAExecutionProvider", cuda), ("CPUExecutionProvider", {})]
    if device.kind is DeviceKind.TENSORRT:
        chain.insert(0, ("TensorrtExecutionProvider", _tensorrt(device, weights)))
    return chain


def _tensorrt(device: DeviceAddress, weights: Precision) -> dict[str, Any]:
    """Engines take minutes to build, so they are kept; TensorRT itself rebuilds those of another card or version."""
    cache = Path(os.environ.get("EMBEDSHIP_CACHE") or tempfile.gettempdir()) / "embedship-tensorrt"
    return {
        "device_id": device.ordinal,
        "trt_fp16_enable": weights is Precision.FLOAT16,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
    }
