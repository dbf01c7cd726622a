"""Bulk encoding on a Ray cluster, with one encoder per device on every node. This process writes their shards.

It uses Ray's actors and calls, and not Ray Data. Ray Data requires pandas, and repeats the work of a lost node only
after all other work is done (Ray 2.60). Here this work goes to another encoder at once.

Only this process reads the input and writes the folder, as in a run without Ray. The nodes need only the bundle, at the
same path. Ray's usage statistics are disabled.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from embedship.bundle import Bundle
from embedship.device import DeviceAddress, DeviceKind
from embedship.errors import EmbedshipError, EngineError, MismatchError, MissingExtra, UsageError
from embedship.serve.bulk.manifest import EncodePlan
from embedship.serve.bulk.ray_worker import RayEncoder, RayEncoderSpec
from embedship.serve.bulk.shards import EncodedShard, EncoderTraits, ProgressListener, ShardJob

_MAX_JOB_LOSSES = 4  # after this many lost encoders the job itself is considered the cause


class JobQueue:
    """Queue of shard jobs. Jobs whose encoder was lost come first."""

    def __init__(self, jobs: Iterator[ShardJob]) -> None:
        self._jobs = jobs
        self._returned: deque[ShardJob] = deque()
        self._losses: Counter[int] = Counter()
        self._next = next(jobs, None)

    def __bool__(self) -> bool:
        return bool(self._returned) or self._next is not None

    def take(self) -> ShardJob:
        if self._returned:
            return self._returned.popleft()
        assert self._next is not None
        job, self._next = self._next, next(self._jobs, None)
        return job

    def put_back(self, job: ShardJob) -> None:
        """Return a job whose encoder was lost. Raises EngineError after _MAX_JOB_LOSSES losses of the same job."""
        self._losses[job.number] += 1
        if self._losses[job.number] == _MAX_JOB_LOSSES:
            last = job.first + len(job.texts) - 1
            raise EngineError(
                f"{_MAX_JOB_LOSSES} encoders were lost one after the other while encoding texts {job.first} to {last}: "
                "check the memory of the nodes. A smaller --shard-texts needs less. Finished shards are kept"
            )
        self._returned.append(job)


try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError:
    raise MissingExtra("ray", "ray") from None

_JOBS_PER_ENCODER = 2  # one shard is computed while the next is tokenised
_SCAN_SECONDS = 5.0  # interval between two scans for nodes
_MAX_IDLE_SECONDS = 300.0  # maximum wait without any encoder
# A device with a lost encoder gets a new one after this time: by then Ray knows whether the node is alive.
_REOPEN_SECONDS = 30.0
_MAX_DEVICE_LOSSES = 4  # after this many lost encoders the device itself is considered the cause

logger = logging.getLogger(__name__)


class RayDevice(NamedTuple):
    """A device of a node. All CPU cores that Ray counts on a node are one device."""

    node: str
    host: str
    ordinal: int
    cpus: int
    gpus: int


@dataclass(slots=True, eq=False)
class RayEncoderSlot:
    """The encoder of one device. It gets jobs after it has been opened."""

    device: RayDevice
    actor: Any
    opened: bool = False
    jobs: int = 0


@dataclass(eq=False)
class RayEncoderPool:
    """Encoders of a Ray cluster, one per device. Nodes may join and leave during the run.

    A device whose encoder cannot be opened, or has other traits than the first one, is not used. A warning is logged.
    """

    bundle: Bundle
    spec: RayEncoderSpec
    check: Callable[[], None]  # raises KeyboardInterrupt if Ray received one and ignored it
    _slots: dict[RayDevice, RayEncoderSlot] = field(default_factory=dict)
    _opening: dict[Any, RayEncoderSlot] = field(default_factory=dict)
    _rejected: dict[RayDevice, EmbedshipError] = field(default_factory=dict)
    _losses: Counter[RayDevice] = field(default_factory=Counter)
    _reopen_at: dict[RayDevice, float] = field(default_factory=dict)  # monotonic seconds
    _traits: EncoderTraits | None = None
    _scanned_at: float = -_SCAN_SECONDS
    _last_encoder_at: float = field(default_factory=time.monotonic)  # when an encoder was last open

    @property
    def traits(self) -> EncoderTraits:
        """Traits of the encoder that was opened first. Raises the errors of `open_first`."""
        self.open_first()
        assert self._traits is not None, "open_first has set them"
        return self._traits

    def open_first(self) -> None:
        """Wait until an encoder is open. Raises the error of the first device if none can be opened."""
        while self._traits is None:
            self.check()
            self._scan()
            for ref in self._ready(list(self._opening)):
                self._finish_opening(ref)
            if self._rejected and not self._opening:
                raise next(iter(self._rejected.values()))

    def shards(
        self, plan: EncodePlan, jobs: Iterator[ShardJob], progress: ProgressListener
    ) -> Generator[EncodedShard, None, None]:
        """Implement `EncoderPool.shards`. Jobs of a lost node are given to another encoder."""
        self.open_first()
        queue, plan_ref = JobQueue(jobs), ray.put(plan)
        in_progress: dict[Any, tuple[RayEncoderSlot, ShardJob]] = {}
        while queue or in_progress:
            self.check()
            self._scan()
            in_progress.update(self._start_jobs(queue, plan_ref))
            for ref in self._ready([*in_progress, *self._opening]):
                if ref in self._opening:
                    self._finish_opening(ref)
                    continue
                slot, job = in_progress.pop(ref)
                slot.jobs -= 1
                try:
                    shard: EncodedShard = ray.get(ref)
                except RayTaskError as failed:
                    raise _cause(failed) from None
                except RayError as lost:
                    self._release_lost(slot, lost)
                    queue.put_back(job)
                    continue
                progress.encoded(shard.texts, shard.tokens)
                yield shard

    def _start_jobs(self, queue: JobQueue, plan_ref: Any) -> Iterator[tuple[Any, tuple[RayEncoderSlot, ShardJob]]]:
        """Start jobs. Every encoder gets its first job before any encoder gets a second."""
        for limit in range(_JOBS_PER_ENCODER):
            for slot in self._slots.values():
                if queue and slot.opened and slot.jobs <= limit:
                    job = queue.take()
                    slot.jobs += 1
                    yield slot.actor.encode.remote(plan_ref, job), (slot, job)

    def _scan(self) -> None:
        """Start an encoder on every device that has none, at most every _SCAN_SECONDS."""
        if time.monotonic() - self._scanned_at < _SCAN_SECONDS:
            return
        devices = _devices(self.spec.device)
        for device in devices:
            may_open = time.monotonic() >= self._reopen_at.get(device, 0.0)
            if may_open and device not in self._slots and device not in self._rejected:
                self._start_encoder(device)
        self._scanned_at = time.monotonic()
        self._require_encoder(devices)

    def _require_encoder(self, devices: list[RayDevice]) -> None:
        """Raise UsageError if the cluster has no such device, EngineError if no encoder was open for too long."""
        if any(slot.opened for slot in self._slots.values()):
            self._last_encoder_at = time.monotonic()
        elif self._traits is None and not devices:
            kind = "CPUs" if self.spec.device.kind is DeviceKind.CPU else "GPUs"
            raise UsageError(f"no node of this Ray cluster has {kind}: start such a node, or give another --device")
        elif time.monotonic() - self._last_encoder_at > _MAX_IDLE_SECONDS:
            raise EngineError(
                f"Ray provided no device for {_MAX_IDLE_SECONDS:.0f} seconds: check that its nodes are running and not "
                "used by other jobs. Finished shards are kept: run the same command again to continue"
            )

    def _start_encoder(self, device: RayDevice) -> None:
        """Start an actor on this node only. Ray must not restart it: only this process knows which texts it lost."""
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(device.node, soft=False)
        options = {
            "num_cpus": device.cpus,
            "num_gpus": device.gpus,
            "max_restarts": 0,
            "max_concurrency": _JOBS_PER_ENCODER,
        }
        actor = ray.remote(RayEncoder).options(scheduling_strategy=strategy, **options).remote()
        slot = RayEncoderSlot(device, actor)
        self._slots[device] = slot
        self._opening[actor.open.remote(self.spec, device.cpus or None)] = slot

    def _finish_opening(self, ref: Any) -> None:
        """Handle the result of opening an encoder: use it, or reject its device."""
        slot = self._opening.pop(ref)
        try:
            traits: EncoderTraits = ray.get(ref)
        except RayTaskError as failed:
            return self._reject(slot, _cause(failed))
        except RayError as lost:
            return self._release_lost(slot, lost)
        self._traits = self._traits or traits
        if differ := [
            f"{name} is {value!r}, not {first!r}"
            for name, first, value in zip(EncoderTraits._fields, self._traits, traits, strict=True)
            if first != value
        ]:
            return self._reject(slot, MismatchError(f"on node {slot.device.host}: {'; '.join(differ)}"))
        slot.opened = True
        self._last_encoder_at = time.monotonic()
        return None

    def _reject(self, slot: RayEncoderSlot, error: EmbedshipError) -> None:
        self._release(slot)
        self._rejected[slot.device] = error
        logger.warning("a device is not used: %s", error)

    def _release_lost(self, slot: RayEncoderSlot, error: RayError) -> None:
        """Release a slot whose node or process is gone. After _REOPEN_SECONDS its device may get another encoder."""
        if self._slots.get(slot.device) is not slot:
            return
        self._release(slot)
        self._losses[slot.device] += 1
        self._reopen_at[slot.device] = time.monotonic() + _REOPEN_SECONDS
        logger.warning(
            "lost the encoder on node %s (%s): its texts go to other encoders", slot.device.host, short(error)
        )
        if self._losses[slot.device] == _MAX_DEVICE_LOSSES:
            reason = f"on node {slot.device.host}: {_MAX_DEVICE_LOSSES} encoders were lost"
            self._reject(slot, EngineError(reason))

    def _release(self, slot: RayEncoderSlot) -> None:
        self._slots.pop(slot.device, None)
        with suppress(RayError):
            ray.kill(slot.actor)

    def _ready(self, refs: list[Any]) -> list[Any]:
        if not refs:
            time.sleep(_SCAN_SECONDS / 10)  # wait for a node
            return []
        ready: list[Any] = ray.wait(refs, num_returns=1, timeout=_SCAN_SECONDS)[0]
        return ready

    def __str__(self) -> str:
        devices, nodes = len(self._slots), len({device.node for device in self._slots})
        return f"{devices} device{'s' * (devices > 1)} of {nodes} node{'s' * (nodes > 1)} (Ray)"


def _devices(address: DeviceAddress) -> list[RayDevice]:
    """Return the devices of this kind on the nodes that are alive."""
    devices = []
    for node in ray.nodes():
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU")) if node["Alive"] else (0, 0)
        host = node["NodeID"], node["NodeManagerHostname"]
        if address.kind is not DeviceKind.CPU:
            devices += [RayDevice(*host, ordinal, 0, 1) for ordinal in range(gpus)]
        elif cpus:
            devices.append(RayDevice(*host, 0, cpus, 0))
    return devices


def _cause(failed: RayTaskError) -> EmbedshipError:
    cause = failed.cause
    if isinstance(cause, EmbedshipError):
        return cause
    return EngineError(f"an encoder failed with {type(cause).__name__}: {short(cause)}. Finished shards are kept")


def short(error: BaseException) -> str:
    """Return the first line of the message, or the name of the error class if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
