"""Device addresses as users write them: cpu, cuda:0, tensorrt:0, gpu:0. Pure: no numpy."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple, Self

from embedship.errors import UsageError


class DeviceKind(StrEnum):
    """The kind of device that a model runs on."""

    CPU = "cpu"
    CUDA = "cuda"  # NVIDIA, with ONNX Runtime
    TENSORRT = "tensorrt"  # NVIDIA, with ONNX Runtime through TensorRT: slow to start, its engines are cached
    GPU = "gpu"  # Intel, with OpenVINO


_ADDRESS = re.compile(r"([a-z]+)(?::(0|[1-9][0-9]{0,2}))?")


class DeviceAddress(NamedTuple):
    """One device: its kind and its number, counted from 0."""

    kind: DeviceKind
    ordinal: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `cpu` or `cuda:1`. Without a number it is the first device. Raises UsageError."""
        match = _ADDRESS.fullmatch(text)
        if not match or match[1] not in set(DeviceKind):
            raise UsageError(
                f"{text!r} is not a device: write {', '.join(DeviceKind)}, followed by a colon and a number if needed"
            )
        return cls(DeviceKind(match[1]), int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.ordinal}"


def parse_devices(text: str) -> tuple[DeviceAddress, ...]:
    """Parse devices separated by commas, all of one kind, without repetition. Raises UsageError.

    >>> [str(device) for device in parse_devices("cuda:0,cuda:1")]
    ['cuda:0', 'cuda:1']
    """
    devices = tuple(DeviceAddress.parse(each) for each in text.split(","))
    for device in devices:
        if devices.count(device) > 1:
            raise UsageError(f"{device} is named twice; name it once")
    if len({device.kind for device in devices}) > 1:
        raise UsageError(f"{text} mixes kinds of devices, whose vectors differ: name devices of one kind")
    return devices
