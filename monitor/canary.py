"""Do the golden texts still get their vectors, on every device?

A flipped bit in weights, a driver that was updated under a running server or a swapped file raises no error: it
changes vectors. The same text, alone, on the same device, gives the same vector to the last bits, whatever users send.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.state import SignalState

# Of a text alone to itself at start. Seen without damage: 1.0 on ONNX Runtime and OpenVINO, int8 and bf16.
START_FLOOR = 0.999

# A device that has not been heard of for so many intervals is unknown, not ok.
STALE = 3


Alike = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]


class DeviceCanary(msgspec.Struct, frozen=True):
    """One device. Cosines are the lowest over the canary texts; before the first round (checked_at 0) they are 0.

    Of a re-ranker, which gives scores and no vectors, they are likenesses on the same scale.
    """

    device: str
    golden_floor: float
    golden: float = 0.0  # to the checkpoint's vectors, as the bundle holds them
    start: float = 0.0  # to this device's own vectors when the server started
    texts: int = 0
    failures: int = 0  # rounds that ended in an error
    checked_at: float = 0.0  # Unix time


class CanaryReport(msgspec.Struct, frozen=True):
    """`warn` if a device is below a floor; `unknown` while one has no recent round."""

    state: SignalState
    reason: str
    golden_floor: float
    start_floor: float
    devices: tuple[DeviceCanary, ...]


class _CanaryModel(NamedTuple):
    """What its devices must give, (n, d), how much of it, and how alike (n, d) and (n, d) are: (n,)."""

    golden: NDArray[np.float32]
    floor: float
    alike: Alike


class CanaryMonitor:
    """Judges what the devices give for the canary texts; whoever owns the devices runs the rounds.

    >>> vectors = np.eye(2, dtype=np.float32)
    >>> canary = Canary(vectors, ["cpu:0"], golden_floor=0.99, clock=lambda: 5.0)
    >>> canary.saw("cpu:0", vectors)
    >>> str(canary.report().state)
    'ok'
    """

    def __init__(
        self,
        golden: NDArray[np.float32],
        devices: Sequence[str],
        *,
        golden_floor: float,
        interval_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the checkpoint's vectors (n, d) of the n canary texts, and what the bundle demands of the worst."""
        self._golden_floor = golden_floor
        self._stale_seconds = STALE * interval_seconds
        self._clock = clock
        self._models: dict[str, _CanaryModel] = {}
        self._start: dict[str, NDArray[np.float32]] = {}
        self._devices: dict[str, DeviceCanary] = {}
        self.join(golden, devices, golden_floor, cosines)

    def join(self, golden: NDArray[np.float32], devices: Sequence[str], golden_floor: float, alike: Alike) -> None:
        """Further devices, which run another model: what it must give (n, d), and how alike two answers of it are."""
        self._models |= dict.fromkeys(devices, _CanaryModel(golden, golden_floor, alike))
        self._devices |= {name: DeviceCanary(name, golden_floor) for name in devices}

    def saw(self, device: str, vectors: NDArray[np.float32]) -> None:
        """Take note of a device's vectors (n, d), in the order of the golden ones."""
        model = self._models[device]
        start = self._start.setdefault(device, np.array(vectors))
        before = self._devices[device]
        self._devices[device] = msgspec.structs.replace(
            before,
            golden=float(model.alike(model.golden, vectors).min()),
            start=float(model.alike(start, vectors).min()),
            texts=before.texts + len(vectors),
            checked_at=self._clock(),
        )

    def failed(self, device: str) -> None:
        """A round that gave no vectors; its error is in the log of whoever ran it."""
        before = self._devices[device]
        self._devices[device] = msgspec.structs.replace(before, failures=before.failures + 1)

    def report(self) -> CanaryReport:
        """May be called from any thread."""
        devices = tuple(self._devices.values())
        state, reason = self._judge(devices)
        return CanaryReport(state, reason, self._golden_floor, START_FLOOR, devices)

    def _judge(self, devices: Sequence[DeviceCanary]) -> tuple[SignalState, str]:
        checked = [each for each in devices if each.checked_at]
        # `not >=` and never `<`: a NaN must warn.
        for each in checked:
            if not (each.golden >= each.golden_floor and each.start >= START_FLOOR):
                return SignalState.WARN, (
                    f"{each.device}: cosine {each.golden:.5f} to the checkpoint (floor {each.golden_floor}), "
                    f"{each.start:.5f} to the vectors at start (floor {START_FLOOR})"
                )
        oldest = self._clock() - self._stale_seconds
        silent = [each.device for each in devices if each.checked_at < oldest or not each.checked_at]
        if silent:
            return (
                SignalState.UNKNOWN,
                f"no canary round in the last {self._stale_seconds:.0f} s on {', '.join(silent)}",
            )
        return SignalState.OK, f"{len(devices)} devices give the vectors of the checkpoint"


def cosines(expected: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) of two (n, d); NaN where one of them is no direction."""
    a, b = vectors.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        return found
