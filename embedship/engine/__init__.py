"""Batch -> Vectors: one Protocol, one file a runtime. Nothing is imported until a variant asks for it.

buckets.py          Batches of few shapes, for devices that plan, allocate or compile once a shape
device.py           What a device asks of a variant, and how many streams it takes
heap.py             Memory that the C library keeps after it was freed
inputs.py           A batch as the named inputs of a model graph
onnxruntime.py      ONNX Runtime on CPU
onnxruntime_gpu.py  ONNX Runtime on NVIDIA GPUs, through CUDA or TensorRT
openvino.py         OpenVINO on CPUs (bfloat16 where they multiply it natively, float32 elsewhere) and on Intel
protocol.py         The interface that every engine implements
"""

from __future__ import annotations

from embedship.bundle import Bundle, MachineInfo, Runtime, Variant
from embedship.device import DeviceAddress, DeviceKind
from embedship.engine.protocol import Engine
from embedship.errors import MismatchError


def open_engine(bundle: Bundle, variant: str, streams: int | None = None, device: str = "cpu") -> Engine:
    """Load one variant on `device`: cpu, cuda:N, tensorrt:N, gpu:N (see `device.Kind`).

    `streams` batches may be under way at once (default: one a core, two on a GPU); on a CPU each is one thread.
    Raises UsageError for a device there is not or its runtime does not know, MissingExtra if the runtime is not
    installed, MismatchError if the variant was not verified for the device, EngineError if it cannot be loaded there.
    """
    from embedship.engine.device import machine, require_runtime
    from embedship.engine.device import streams as useful

    where, chosen = DeviceAddress.parse(device), bundle.variant(variant)
    require_runtime(where, chosen.name, chosen.runtime)
    require(chosen, machine(where))
    streams = streams or useful(where)
    path, pipeline = bundle.path(chosen.path), bundle.manifest.pipeline
    if chosen.runtime is Runtime.OPENVINO:
        from embedship.engine.openvino import OpenVinoEngine

        return OpenVinoEngine(path, pipeline.inputs, chosen.weights, streams, where, pipeline.task.output)
    if where.kind is DeviceKind.CPU:
        from embedship.engine.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, pipeline.inputs, chosen.weights, streams, pipeline.task.output)
    from embedship.engine.onnxruntime_gpu import OnnxRuntimeGpuEngine

    return OnnxRuntimeGpuEngine(path, pipeline, chosen.weights, streams, where)


def require(variant: Variant, machine: MachineInfo) -> None:
    """Raise MismatchError unless `machine` computes of this variant what the export verified."""
    if not machine.meets(variant.needs):
        raise MismatchError(
            f"variant {variant.name} ({variant.path}) is for {' or '.join(variant.needs)}, and this machine "
            f"({machine.cpu}) has {', '.join(machine.isa) or 'none of these'}: its vectors would be wrong here, or far "
            "too slow. Take another variant (--variant), or export again with a --target that this machine meets"
        )
