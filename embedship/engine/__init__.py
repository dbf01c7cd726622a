"""Engines: run batches of token ids on a device. A runtime is imported only if a variant needs it.

buckets.py          Pads batches to few shapes, for GPUs
device.py           Which runtimes and variants a device can run
heap.py             Returns free memory to the operating system
inputs.py           The named graph inputs of a batch
onnxruntime.py      ONNX Runtime on CPUs
onnxruntime_gpu.py  ONNX Runtime on NVIDIA GPUs
openvino.py         OpenVINO on CPUs and Intel GPUs
protocol.py         The interface of an engine
"""

from __future__ import annotations

from embedship.bundle import Bundle, MachineInfo, Runtime, Variant
from embedship.device import DeviceAddress, DeviceKind
from embedship.engine.protocol import Engine
from embedship.errors import MismatchError


def open_engine(bundle: Bundle, variant: str, streams: int | None = None, device: str = "cpu") -> Engine:
    """Load one variant on `device`: cpu, cuda:N, tensorrt:N or gpu:N (see `DeviceKind`).

    `streams` is how many batches may run at once (default: one per core, two on a GPU); on a CPU each uses one thread.
    Raises UsageError if the device does not exist or the variant's runtime does not support it, MissingExtra if the
    runtime is not installed, MismatchError if the variant was not verified for the device, EngineError if it cannot be
    loaded there.
    """
    from embedship.engine.device import default_streams, machine, require_runtime

    address, chosen = DeviceAddress.parse(device), bundle.variant(variant)
    require_runtime(address, chosen.name, chosen.runtime)
    require(chosen, machine(address))
    streams = streams or default_streams(address)
    path, pipeline = bundle.path(chosen.path), bundle.manifest.pipeline
    if chosen.runtime is Runtime.OPENVINO:
        from embedship.engine.openvino import OpenVinoEngine

        return OpenVinoEngine(path, pipeline.inputs, chosen.weights, streams, address, pipeline.task.output)
    if address.kind is DeviceKind.CPU:
        from embedship.engine.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, pipeline.inputs, chosen.weights, streams, pipeline.task.output)
    from embedship.engine.onnxruntime_gpu import OnnxRuntimeGpuEngine

    return OnnxRuntimeGpuEngine(path, pipeline, chosen.weights, streams, address)


def require(variant: Variant, machine: MachineInfo) -> None:
    """Raise MismatchError unless the export verified the variant for machines like `machine`."""
    if not machine.meets(variant.needs):
        raise MismatchError(
            f"variant {variant.name} ({variant.path}) needs {' or '.join(variant.needs)}, but this machine "
            f"({machine.cpu}) has {', '.join(machine.isa) or 'none of these'}: its vectors would be wrong here, or far "
            "too slow. Use another variant (--variant), or export again with a --target that this machine meets"
        )
