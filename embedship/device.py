"""What a forward pass runs on, written the way people write it: cpu, cuda:0, tensorrt:0, gpu:0. Pure: no numpy."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple, Self

from embedship.errors import UsageError


class DeviceKind(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"  # NVIDIA, by ONNX Runtime
    TENSORRT = "tensorrt"  # NVIDIA, by ONNX Runtime through TensorRT: slow to start, engines are kept in a cache
    GPU = "gpu"  # Intel, by OpenVINO


_WRITTEN = re.compile(r"([a-z]+)(?::(0|[1-9][0-9]{0,2}))?")


class DeviceAddress(NamedTuple):
    kind: DeviceKind
    ordinal: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`cpu`, `cuda:1`; without a number it is the first. Raises UsageError."""
        found = _WRITTEN.fullmatch(text)
        if not found or found[1] not in set(DeviceKind):
            raise UsageError(
                f"{text!r} is no device: write {', '.join(DeviceKind)}, with a number after a colon if need be"
            )
        return cls(DeviceKind(found[1]), int(found[2] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.ordinal}"


def several(text: str) -> tuple[DeviceAddress, ...]:
    """Devices with commas between them, all of one kind, each once. Raises UsageError.

    >>> [str(device) for device in several("cuda:0,cuda:1")]
    ['cuda:0', 'cuda:1']
    """
    devices = tuple(DeviceAddress.parse(each) for each in text.split(","))
    for device in devices:
        if devices.count(device) > 1:
            raise UsageError(f"{device} is named twice; name it once")
    if len({device.kind for device in devices}) > 1:
        raise UsageError(f"{text} mixes kinds, whose vectors differ; name one kind")
    return devices
