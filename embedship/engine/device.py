"""What a forward pass runs on, written the way people write it: cpu, cuda:0, tensorrt:0, gpu:0."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Self

from embedship import hardware
from embedship.bundle import Machine, Runtime
from embedship.errors import UsageError


class Kind(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"  # NVIDIA, by ONNX Runtime
    TENSORRT = "tensorrt"  # NVIDIA, by ONNX Runtime through TensorRT: slow to start, engines are kept in a cache
    GPU = "gpu"  # Intel, by OpenVINO


_RUNTIMES = {
    Kind.CPU: (Runtime.ONNXRUNTIME, Runtime.OPENVINO),
    Kind.CUDA: (Runtime.ONNXRUNTIME,),
    Kind.TENSORRT: (Runtime.ONNXRUNTIME,),
    Kind.GPU: (Runtime.OPENVINO,),
}
# One computes while the inputs of the next are copied; more wait for the same multiprocessors.
_GPU_STREAMS = 2


class Device(NamedTuple):
    kind: Kind
    ordinal: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`cpu`, `cuda:1`; without a number it is the first. Raises UsageError."""
        kind, _, ordinal = text.partition(":")
        if kind not in set(Kind) or not (ordinal or "0").isdecimal() or text.endswith(":"):
            raise UsageError(f"{text!r} is no device: write {', '.join(Kind)}, with a number after a colon if need be")
        return cls(Kind(kind), int(ordinal or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.ordinal}"

    @property
    def streams(self) -> int:
        """How many batches may usefully be under way at once."""
        return hardware.streams() if self.kind is Kind.CPU else _GPU_STREAMS

    def machine(self) -> Machine:
        """What `Variant.needs` is held against: int8 made for a CPU is not what a GPU computes, and the reverse."""
        here = hardware.machine()
        if self.kind is Kind.CPU:
            return here
        nvidia = self.kind in (Kind.CUDA, Kind.TENSORRT)
        return Machine(cpu=str(self), isa=("cuda",) if nvidia else (), cores=here.cores)

    def require_runtime(self, variant: str, runtime: Runtime) -> None:
        """Raise UsageError if the variant's runtime does not run there."""
        if runtime not in _RUNTIMES[self.kind]:
            able = " or ".join(_RUNTIMES[self.kind])
            raise UsageError(f"variant {variant} runs on {runtime}, which has no {self}: take a variant of {able}")
