"""What a device asks of a variant, and how many streams it takes."""

from __future__ import annotations

from embedship import hardware
from embedship.bundle import MachineInfo, Runtime
from embedship.device import DeviceAddress, DeviceKind
from embedship.errors import UsageError

_RUNTIMES = {
    DeviceKind.CPU: (Runtime.ONNXRUNTIME, Runtime.OPENVINO),
    DeviceKind.CUDA: (Runtime.ONNXRUNTIME,),
    DeviceKind.TENSORRT: (Runtime.ONNXRUNTIME,),
    DeviceKind.GPU: (Runtime.OPENVINO,),
}
# One computes while the inputs of the next are copied; more wait for the same multiprocessors.
_GPU_STREAMS = 2


def streams(device: DeviceAddress) -> int:
    """How many batches may usefully be under way at once."""
    return hardware.streams() if device.kind is DeviceKind.CPU else _GPU_STREAMS


def machine(device: DeviceAddress) -> MachineInfo:
    """What `Variant.needs` is held against: int8 made for a CPU is not what a GPU computes, and the reverse."""
    here = hardware.machine()
    if device.kind is DeviceKind.CPU:
        return here
    nvidia = device.kind in (DeviceKind.CUDA, DeviceKind.TENSORRT)
    return MachineInfo(cpu=str(device), isa=("cuda",) if nvidia else (), cores=here.cores)


def require_runtime(device: DeviceAddress, variant: str, runtime: Runtime) -> None:
    """Raise UsageError if the variant's runtime does not run there."""
    if runtime not in _RUNTIMES[device.kind]:
        able = " or ".join(_RUNTIMES[device.kind])
        raise UsageError(f"variant {variant} runs on {runtime}, which has no {device}: take a variant of {able}")
