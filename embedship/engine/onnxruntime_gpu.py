"""Engine for ONNX Runtime on NVIDIA GPUs, through CUDA or TensorRT.

Written from the documentation of ONNX Runtime 1.31 and not yet run on a GPU: see docs/performance.md.
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
    """Runs a model in one session, used by `streams` threads: one batch computes while the next is copied.

    Inputs and outputs are bound to the device, so ONNX Runtime need not guess where they are and copies them once.
    Batches have few shapes (see `buckets`), so its allocator reuses memory and TensorRT builds few plans.
    """

    def __init__(
        self, path: Path, pipeline: ModelSpec, weights: Precision, streams: int, device: DeviceAddress
    ) -> None:
        provider = _PROVIDERS[device.kind]
        if provider not in ort.get_available_providers():
            raise EngineError(
                f"{device}: this ONNX Runtime ({ort.__version__}) has no {provider}: install onnxruntime-gpu, not "
                f"onnxruntime, in a separate environment: {install('gpu')}"
            )
        ort.preload_dlls()  # from NVIDIA's wheels, which [gpu] installs; the system's loader does not look there
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=_providers(device, weights))
        except FAILURES as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path.name} on {device}: {error}") from error
        # ONNX Runtime falls back to the CPU without an error if the driver or cuDNN is missing.
        if provider not in self._session.get_providers():
            raise EngineError(f"{device} cannot be used: the NVIDIA driver, CUDA or cuDNN is missing or too old for it")
        self._inputs = pipeline.inputs
        self._output = pipeline.task.output
        self._pad_id = pipeline.pad_id
        self._device = ("cuda", device.ordinal)
        self.streams = streams
        self.precision = weights

    def encode(self, batch: Batch) -> Vectors:
        try:
            binding = self._session.io_binding()
            for name, values in feed(pad_to_bucket(batch, self._pad_id), self._inputs).items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values, *self._device))
            binding.bind_output(self._output, *self._device)
            self._session.run_with_iobinding(binding)
            (vectors,) = binding.copy_outputs_to_cpu()
        except FAILURES as error:
            raise EngineError(f"ONNX Runtime failed on a batch of {len(batch)}: {error}") from error
        return np.asarray(vectors[: len(batch)], dtype=np.float32)

    def close(self) -> None:
        del self._session


def _providers(device: DeviceAddress, weights: Precision) -> list[tuple[str, dict[str, Any]]]:
    """Return the providers in order of preference.

    CUDA runs the operations that TensorRT cannot run, and the CPU runs the shape arithmetic.
    """
    cuda = {
        "device_id": device.ordinal,
        # The default, doubling, allocates up to twice what the largest batch needed.
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 has 10 bits of mantissa, too few to pass the float32 parity gate.
        "use_tf32": int(weights is not Precision.FLOAT32),
    }
    chain = [("CUDAExecutionProvider", cuda), ("CPUExecutionProvider", {})]
    if device.kind is DeviceKind.TENSORRT:
        chain.insert(0, ("TensorrtExecutionProvider", _tensorrt(device, weights)))
    return chain


def _tensorrt(device: DeviceAddress, weights: Precision) -> dict[str, Any]:
    """Return TensorRT's settings. Its engines take minutes to build, so they are cached; it rebuilds outdated ones."""
    cache = Path(os.environ.get("EMBEDSHIP_CACHE") or tempfile.gettempdir()) / "embedship-tensorrt"
    return {
        "device_id": device.ordinal,
        "trt_fp16_enable": weights is Precision.FLOAT16,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
    }
