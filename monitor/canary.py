"""CanaryMonitor: checks that every device still gives the right vectors for the golden texts.

A flipped bit in the weights, a driver update while the server runs, or a replaced file raises no error but changes
vectors. A text that is encoded alone on the same device always gives the same vector, whatever the traffic; at most the
last bits differ.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedship.monitor.state import SignalState

# Limit for the cosine of a vector to the one at start. Observed without damage: 1.0 on ONNX Runtime and OpenVINO,
# int8 and bf16.
START_FLOOR = 0.999

# A device without a round for this many intervals is `unknown`, not `ok`.
STALE = 3


Alike = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]


class DeviceCanary(msgspec.Struct, frozen=True):
    """One device. Cosines are the lowest over the canary texts; 0 before the first round (checked_at 0).

    For a re-ranker, which gives scores instead of vectors, they are similarities on the same scale.
    """

    device: str
    golden_floor: float
    golden: float = 0.0  # to the checkpoint's vectors, as stored in the bundle
    start: float = 0.0  # to the vectors of the same device when the server started
    texts: int = 0
    failures: int = 0  # rounds that ended in an error
    checked_at: float = 0.0  # Unix time


class CanaryReport(msgspec.Struct, frozen=True):
    """State of all devices: `warn` if one is below a floor; `unknown` while one has no recent round."""

    state: SignalState
    reason: str
    golden_floor: float
    start_floor: float
    devices: tuple[DeviceCanary, ...]


class _CanaryModel(NamedTuple):
    """The expected vectors (n, d) of one model, the cosine floor, and the similarity of two (n, d) as (n,)."""

    golden: NDArray[np.float32]
    floor: float
    alike: Alike


class CanaryMonitor:
    """Compares the vectors that the devices give for the canary texts. The owner of the devices runs the rounds.

    >>> vectors = np.eye(2, dtype=np.float32)
    >>> canary = CanaryMonitor(vectors, ["cpu:0"], golden_floor=0.99, clock=lambda: 5.0)
    >>> canary.record_vectors("cpu:0", vectors)
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
        """golden (n, d): the checkpoint's vectors of the n canary texts. golden_floor: the lowest cosine allowed."""
        self._golden_floor = golden_floor
        self._stale_seconds = STALE * interval_seconds
        self._clock = clock
        self._models: dict[str, _CanaryModel] = {}
        self._start: dict[str, NDArray[np.float32]] = {}
        self._devices: dict[str, DeviceCanary] = {}
        self.add_devices(golden, devices, golden_floor, cosines)

    def add_devices(
        self, golden: NDArray[np.float32], devices: Sequence[str], golden_floor: float, alike: Alike
    ) -> None:
        """Add devices that run another model: its expected vectors (n, d), and the similarity of two answers."""
        self._models |= dict.fromkeys(devices, _CanaryModel(golden, golden_floor, alike))
        self._devices |= {name: DeviceCanary(name, golden_floor) for name in devices}

    def record_vectors(self, device: str, vectors: NDArray[np.float32]) -> None:
        """Record the vectors (n, d) of one round on a device, in the order of the golden vectors."""
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

    def record_failure(self, device: str) -> None:
        """Count a round that gave no vectors. The caller logs the error."""
        before = self._devices[device]
        self._devices[device] = msgspec.structs.replace(before, failures=before.failures + 1)

    def report(self) -> CanaryReport:
        """Return the report on all devices. May be called from any thread."""
        devices = tuple(self._devices.values())
        state, reason = self._judge(devices)
        return CanaryReport(state, reason, self._golden_floor, START_FLOOR, devices)

    def _judge(self, devices: Sequence[DeviceCanary]) -> tuple[SignalState, str]:
        checked = [each for each in devices if each.checked_at]
        # `not >=` instead of `<`, because a NaN must also warn.
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
    """Return the cosines (n,) of two (n, d); NaN where a vector has length 0 or is not finite."""
    a, b = vectors.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        dots: NDArray[np.float64] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        return dots
