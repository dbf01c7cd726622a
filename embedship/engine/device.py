"""What a device asks of a variant, and how many streams it takes."""

from __future__ import annotations

from embedship import hardware
from embedship.bundle import Machine, Runtime
from embedship.device import Device, Kind
from embedship.errors import UsageError

_RUNTIMES = {
    Kind.CPU: (Runtime.ONNXRUNTIME, Runtime.OPENVINO),
    Kind.CUDA: (Runtime.ONNXRUNTIME,),
    Kind.TENSORRT: (Runtime.ONNXRUNTIME,),
    Kind.GPU: (Runtime.OPENVINO,),
}
# One computes while the inputs of the next are copied; more wait for the same multiprocessors.
_GPU_STREAMS = 2


def streams(device: Device) -> int:
    """How many batches may usefully be under way at once."""
    return hardware.streams() if device.kind is Kind.CPU else _GPU_STREAMS


def machine(device: Device) -> Machine:
    """What `Variant.needs` is held against: int8 made for a CPU is not what a GPU computes, and the reverse."""
    here = hardware.machine()
    if device.kind is Kind.CPU:
        return here
    nvidia = device.kind in (Kind.CUDA, Kind.TENSORRT)
    return Machine(cpu=str(device), isa=("cuda",) if nvidia else (), cores=here.cores)


def require_runtime(device: Device, variant: str, runtime: Runtime) -> None:
    """Raise UsageError if the variant's runtime does not run there."""
    if runtime not in _RUNTIMES[device.kind]:
        able = " or ".join(_RUNTIMES[device.kind])
        raise UsageError(f"variant {variant} runs on {runtime}, which has no {device}: take a variant of {able}")
