"""Engine for ONNX Runtime on CPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embedship.batches import Batch
from embedship.bundle import Precision
from embedship.codes import Vectors
from embedship.engine import heap
from embedship.engine.inputs import feed
from embedship.errors import EngineError, MissingExtra

try:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as errors
except ImportError:
    raise MissingExtra("onnxruntime", "onnxruntime") from None

# The runtime's errors have no common base class except Exception.
FAILURES = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile,
            errors.NotImplemented, errors.RuntimeException, errors.EPFail)  # fmt: skip


class OnnxRuntimeEngine:
    """Runs a model in one session for all streams: they share the weights, and `run` computes on the calling thread."""

    def __init__(self, path: Path, inputs: tuple[str, ...], weights: Precision, streams: int, output: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The arena never shrinks: after one large batch it would keep that batch's memory.
        options.enable_cpu_mem_arena = False
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except FAILURES as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path.name}: {error}") from error
        self._inputs = inputs
        self._output = output
        self.streams = streams
        self.precision = weights

    def encode(self, batch: Batch) -> Vectors:
        try:
            (vectors,) = self._session.run([self._output], feed(batch, self._inputs))
        except FAILURES as error:
            raise EngineError(f"ONNX Runtime failed on a batch of {len(batch)}: {error}") from error
        finally:
            if batch.input_ids.size > heap.LARGE:
                heap.trim_heap()
        return np.asarray(vectors, dtype=np.float32)

    def close(self) -> None:
        del self._session
        heap.trim_heap()
