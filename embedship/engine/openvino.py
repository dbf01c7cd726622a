"""Engine for OpenVINO: on CPUs (bfloat16 where they multiply it natively, else float32) and Intel GPUs (float16).

In int8 files, the parts that are not quantised are computed in float32 on CPUs. With bfloat16 for these parts, the
vectors were wrong on CPUs with AMX (docs/openvino-shapes.md).

The GPU path has not been run on a GPU yet: see docs/performance.md.
"""

from __future__ import annotations

import queue
import sys
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.device import DeviceAddress, DeviceKind
from embedship.engine import heap
from embedship.engine.inputs import feed
from embedship.errors import EngineError, MissingExtra

# Importing openvino reports the import to Google Analytics, unless its telemetry package cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino as ov
except ImportError:
    raise MissingExtra("openvino", "openvino") from None

# OpenVINO's binding imports numpy when it gets its first array. Two streams that do that at the same time can deadlock:
# one has the import lock, the other the interpreter's lock (seen with 2026.4.1). So do it here, on one thread.
ov.Tensor(np.zeros(1, dtype=np.float32))


class OpenVinoEngine:
    """Runs one compiled model with a pool of infer requests, one per stream. Streams share the weights."""

    def __init__(
        self,
        path: Path,
        inputs: tuple[str, ...],
        weights: Precision,
        streams: int,
        device: DeviceAddress,
        output: str,
    ) -> None:
        core = ov.Core()
        name = _name(core, device)
        arithmetic = _arithmetic(core.get_property(name, "OPTIMIZATION_CAPABILITIES"), device, weights)
        try:
            model = core.read_model(path)
            self._compile = partial(
                core.compile_model, _keep_output(model, output), name, _settings(arithmetic, streams, device)
            )
            self._pool = _RequestPool(self._compile(), streams)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {ov.__version__} cannot load {path.name}: {error}") from error
        self._renewing = Lock()
        self._inputs = inputs
        self.streams = streams
        self.precision = _precision(weights, arithmetic)

    def encode(self, batch: Batch) -> Vectors:
        inputs = feed(batch, self._inputs)
        pool, request = self._take()
        try:
            request.infer(inputs, share_inputs=True)
            vectors = np.array(request.get_output_tensor(0).data, dtype=np.float32)
        except RuntimeError as error:
            self._renew(pool)
            raise EngineError(f"OpenVINO failed on a batch of {len(batch)}: {error}") from error
        finally:
            pool.put(request)
            if batch.input_ids.size > heap.LARGE:
                pool.release_buffers()
        # OpenVINO does not raise if the inputs of a batch do not fit together: it returns no rows.
        if len(vectors) != len(batch):
            raise EngineError(f"OpenVINO failed on a batch of {len(batch)}: it returned {len(vectors)} rows")
        return vectors

    def _take(self) -> tuple[_RequestPool, ov.InferRequest]:
        while True:
            pool = self._pool
            request = pool.get()
            if pool is self._pool:
                return pool, request
            pool.put(request)  # replaced while this thread waited

    def _renew(self, failed: _RequestPool) -> None:
        """Compile the model again after a failed batch.

        The graph of a stream keeps the shapes of a batch that failed in it, and then also fails on good batches
        (2026.4.1, two streams). Batches that other streams compute are not interrupted.
        """
        with self._renewing:
            if self._pool is failed:
                self._pool = _RequestPool(self._compile(), self.streams)

    def close(self) -> None:
        for _ in range(self.streams):
            self._pool.get()
        # Other objects may refer to this one for longer: the memory of the model must not depend on them.
        del self._pool, self._compile
        heap.trim_heap()


class _RequestPool(queue.SimpleQueue[ov.InferRequest]):
    """The infer requests of one compiled model, one per stream."""

    def __init__(self, compiled: ov.CompiledModel, streams: int) -> None:
        super().__init__()
        self._compiled = compiled
        self._streams = streams
        self._releasing = Lock()
        for _ in range(streams):
            self.put(compiled.create_infer_request())

    def release_buffers(self) -> None:
        """Free the streams' buffers, which stay as large as the largest batch that each stream has run.

        MiniLM keeps 266 MB after batches of 1,536 tokens, and 653 MB after one of 32,768. This waits until all streams
        are idle, because OpenVINO refuses while one computes.
        """
        with self._releasing:
            requests = [self.get() for _ in range(self._streams)]
            try:
                self._compiled.release_memory()
            finally:
                for request in requests:
                    self.put(request)
        heap.trim_heap()


def _name(core: ov.Core, device: DeviceAddress) -> str:
    """Return OpenVINO's name of the device. It numbers GPUs only if there are several."""
    if device.kind is DeviceKind.CPU:
        return "CPU"
    known = [name for name in core.available_devices if name.split(".")[0] == "GPU"]
    if device.ordinal >= len(known):
        raise EngineError(
            f"{device}: OpenVINO {ov.__version__} found {len(known)} Intel GPUs. It needs the GPU's compute driver "
            "(intel-opencl-icd) and, in a container, the device /dev/dri"
        )
    return str(known[device.ordinal])


def _arithmetic(capabilities: list[str], device: DeviceAddress, weights: Precision) -> str:
    """Return the precision hint, which applies to the matrix products that are not int8."""
    if device.kind is DeviceKind.CPU and weights is Precision.INT8:
        return "f32"
    fast = "BF16" if device.kind is DeviceKind.CPU else "FP16"
    return {"BF16": "bf16", "FP16": "f16"}[fast] if fast in capabilities else "f32"


def _settings(arithmetic: str, streams: int, device: DeviceAddress) -> dict[str, str]:
    if device.kind is not DeviceKind.CPU:
        return {"INFERENCE_PRECISION_HINT": arithmetic, "NUM_STREAMS": str(streams)}
    return {
        "INFERENCE_PRECISION_HINT": arithmetic,
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(streams),
        # A pinned thread waits for its own core while another is free, and the event loop uses these cores as well.
        "ENABLE_CPU_PINNING": "NO",
        # Number of compiled kernels to keep: those of the most recent batch shapes. Without this, OpenVINO keeps all
        # (docs/performance.md). One shape of MiniLM needs about 12 entries, 4 MB.
        "CPU_RUNTIME_CACHE_CAPACITY": "1024",
    }


def _keep_output(model: ov.Model, output: str) -> ov.Model:
    """Return the model with only this output: `last_hidden_state` is never read. Raises RuntimeError without it."""
    answer = next((r for r in model.results if output in r.output(0).get_names()), None)
    if answer is None:
        raise RuntimeError(f"it has no output {output}")
    return ov.Model([answer], model.get_parameters(), model.get_friendly_name())


def _precision(weights: Precision, arithmetic: str) -> Precision:
    if weights is Precision.INT8:
        return Precision.INT8
    return {"bf16": Precision.BFLOAT16, "f16": Precision.FLOAT16, "f32": Precision.FLOAT32}[arithmetic]
