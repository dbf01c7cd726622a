"""Which runtimes and variants a device can run, and how many streams it can use."""

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
# One batch computes while the inputs of the next are copied. More streams would wait for the same multiprocessors.
_GPU_STREAMS = 2


def default_streams(device: DeviceAddress) -> int:
    """Return how many batches can usefully run at once."""
    return hardware.streams() if device.kind is DeviceKind.CPU else _GPU_STREAMS


def machine(device: DeviceAddress) -> MachineInfo:
    """Return the machine to compare with `Variant.needs`.

    For a GPU it has no CPU instructions, because a GPU gives other results for int8 files that were made for a CPU.
    """
    host = hardware.machine()
    if device.kind is DeviceKind.CPU:
        return host
    nvidia = device.kind in (DeviceKind.CUDA, DeviceKind.TENSORRT)
    return MachineInfo(cpu=str(device), isa=("cuda",) if nvidia else (), cores=host.cores)


def require_runtime(device: DeviceAddress, variant: str, runtime: Runtime) -> None:
    """Raise UsageError unless the variant's runtime supports the device."""
    if runtime not in _RUNTIMES[device.kind]:
        supported = " or ".join(_RUNTIMES[device.kind])
        raise UsageError(
            f"variant {variant} runs on {runtime}, which does not support {device}: use a variant of {supported}"
        )
