"""Bulk encoding on a Ray cluster: an encoder a device, on whatever nodes there are; their shards are written here.

Ray's own actors and calls, without Ray Data, which brings pandas, and where what a lost node had under way waits until
the rest is done (2.60). Here it goes to another encoder at once.

The input is read and the folder is written by this process alone, as in a run without Ray: nodes need the bundle, at
the same path, and nothing else. Nothing is sent out about this use of Ray.
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

_LOSSES = 4  # a job that ended so many encoders is at fault itself


class JobQueue:
    """Jobs to hand out: first those that came back."""

    def __init__(self, jobs: Iterator[ShardJob]) -> None:
        self._jobs = jobs
        self._back: deque[ShardJob] = deque()
        self._losses: Counter[int] = Counter()
        self._next = next(jobs, None)

    def __bool__(self) -> bool:
        return bool(self._back) or self._next is not None

    def take(self) -> ShardJob:
        if self._back:
            return self._back.popleft()
        assert self._next is not None
        job, self._next = self._next, next(self._jobs, None)
        return job

    def lost(self, job: ShardJob) -> None:
        """Its encoder is gone. Raises EngineError for a job that ends one encoder after the other."""
        self._losses[job.number] += 1
        if self._losses[job.number] == _LOSSES:
            last = job.first + len(job.texts) - 1
            raise EngineError(
                f"texts {job.first} to {last} ended {_LOSSES} encoders, one after the other: has a node the memory for "
                "them? Fewer --shard-texts need less. What is encoded stays"
            )
        self._back.append(job)


try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError:
    raise MissingExtra("ray", "ray") from None

_AHEAD = 2  # shards an encoder holds: one computes while the next is tokenised
_LOOK = 5.0  # seconds between two looks at which nodes there are
_PATIENCE = 300.0  # seconds without any encoder
_REST = 30.0  # seconds until a device whose encoder was lost gets another: by then Ray knows whether its node is there
_LOSSES = 4  # a device that lost so many encoders is at fault itself

_LOGGER = logging.getLogger(__name__)


class RayDevice(NamedTuple):
    """A device of a node; the CPU cores that Ray counts there are one device."""

    node: str
    host: str
    ordinal: int
    cpus: int
    gpus: int


@dataclass(slots=True, eq=False)
class RayEncoderSlot:
    """An encoder on its device. It has jobs once it is open."""

    spot: RayDevice
    actor: Any
    opened: bool = False
    jobs: int = 0


@dataclass(eq=False)
class RayEncoderPool:
    """Encoders of a Ray cluster, as many as it has devices: nodes may come and go.

    A node whose encoder cannot be opened, or computes otherwise than the first one, is left out and said to be.
    """

    bundle: Bundle
    order: RayEncoderSpec
    check: Callable[[], None]  # raises what should have ended it already
    _seats: dict[RayDevice, RayEncoderSlot] = field(default_factory=dict)
    _opening: dict[Any, RayEncoderSlot] = field(default_factory=dict)
    _refused: dict[RayDevice, EmbedshipError] = field(default_factory=dict)
    _losses: Counter[RayDevice] = field(default_factory=Counter)
    _resting: dict[RayDevice, float] = field(default_factory=dict)  # until when
    _traits: EncoderTraits | None = None
    _looked: float = -_LOOK
    _served: float = field(default_factory=time.monotonic)  # when there was an encoder last

    @property
    def traits(self) -> EncoderTraits:
        """Of the encoder that was open first. Raises what `open_first` raises."""
        self.open_first()
        assert self._traits is not None, "the first encoder has told them"
        return self._traits

    def open_first(self) -> None:
        """Wait until an encoder is open. Raises what it fails with if none of them can be opened."""
        while self._traits is None:
            self.check()
            self._look()
            for ref in self._ready(list(self._opening)):
                self._take(ref)
            if self._refused and not self._opening:
                raise next(iter(self._refused.values()))

    def shards(
        self, plan: EncodePlan, jobs: Iterator[ShardJob], watcher: ProgressListener
    ) -> Generator[EncodedShard, None, None]:
        """As `Encoders.shards`. What an encoder had under way when its node was lost is given to another one."""
        self.open_first()
        work, plans = JobQueue(jobs), ray.put(plan)
        under_way: dict[Any, tuple[RayEncoderSlot, ShardJob]] = {}
        while work or under_way:
            self.check()
            self._look()
            under_way.update(self._handed_out(work, plans))
            for ref in self._ready([*under_way, *self._opening]):
                if ref in self._opening:
                    self._take(ref)
                    continue
                seat, job = under_way.pop(ref)
                seat.jobs -= 1
                try:
                    done: EncodedShard = ray.get(ref)
                except RayTaskError as failed:
                    raise _reason(failed) from None
                except RayError as lost:
                    self._vacate(seat, lost)
                    work.lost(job)
                    continue
                watcher.encoded(done.texts, done.tokens)
                yield done

    def _handed_out(self, work: JobQueue, plans: Any) -> Iterator[tuple[Any, tuple[RayEncoderSlot, ShardJob]]]:
        """Everybody gets a first job before anybody gets a second."""
        for ahead in range(_AHEAD):
            for seat in self._seats.values():
                if work and seat.opened and seat.jobs <= ahead:
                    job = work.take()
                    seat.jobs += 1
                    yield seat.actor.encode.remote(plans, job), (seat, job)

    def _look(self) -> None:
        """Put an encoder on every device that has none."""
        if time.monotonic() - self._looked < _LOOK:
            return
        spots = _spots(self.order.device)
        for spot in spots:
            rested = time.monotonic() >= self._resting.get(spot, 0.0)
            if rested and spot not in self._seats and spot not in self._refused:
                self._seat(spot)
        self._looked = time.monotonic()
        self._require_patience(spots)

    def _require_patience(self, spots: list[RayDevice]) -> None:
        if any(seat.opened for seat in self._seats.values()):
            self._served = time.monotonic()
        elif self._traits is None and not spots:
            wanted = "CPUs" if self.order.device.kind is DeviceKind.CPU else "GPUs"
            raise UsageError(f"no node of this Ray cluster has {wanted}: start one that does, or name another --device")
        elif time.monotonic() - self._served > _PATIENCE:
            raise EngineError(
                f"Ray gave no device to encode on for {_PATIENCE:.0f} seconds: are its nodes there, and not taken by "
                "others? What is encoded stays: the same command goes on from there"
            )

    def _seat(self, spot: RayDevice) -> None:
        """On this node and no other; a restart is ours to decide on, for only we know which texts go with it."""
        placed = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(spot.node, soft=False)
        options = {"num_cpus": spot.cpus, "num_gpus": spot.gpus, "max_restarts": 0, "max_concurrency": _AHEAD}
        seat = RayEncoderSlot(spot, ray.remote(RayEncoder).options(scheduling_strategy=placed, **options).remote())
        self._seats[spot] = seat
        self._opening[seat.actor.open.remote(self.order, spot.cpus or None)] = seat

    def _take(self, ref: Any) -> None:
        """An encoder has been opened, or has not."""
        seat = self._opening.pop(ref)
        try:
            traits: EncoderTraits = ray.get(ref)
        except RayTaskError as failed:
            return self._refuse(seat, _reason(failed))
        except RayError as lost:
            return self._vacate(seat, lost)
        self._traits = self._traits or traits
        if differ := [
            f"{name} is {there!r}, not {here!r}"
            for name, here, there in zip(EncoderTraits._fields, self._traits, traits, strict=True)
            if here != there
        ]:
            return self._refuse(seat, MismatchError(f"on node {seat.spot.host}: {'; '.join(differ)}"))
        seat.opened = True
        self._served = time.monotonic()
        return None

    def _refuse(self, seat: RayEncoderSlot, why: EmbedshipError) -> None:
        self._leave(seat)
        self._refused[seat.spot] = why
        _LOGGER.warning("a device is left out: %s", why)

    def _vacate(self, seat: RayEncoderSlot, why: RayError) -> None:
        """Its node or its process is gone; after a rest the device gets another encoder, if it is there."""
        if self._seats.get(seat.spot) is not seat:
            return
        self._leave(seat)
        self._losses[seat.spot] += 1
        self._resting[seat.spot] = time.monotonic() + _REST
        _LOGGER.warning("an encoder on node %s was lost (%s): its texts go to others", seat.spot.host, short(why))
        if self._losses[seat.spot] == _LOSSES:
            self._refuse(seat, EngineError(f"on node {seat.spot.host}: {_LOSSES} encoders were lost"))

    def _leave(self, seat: RayEncoderSlot) -> None:
        self._seats.pop(seat.spot, None)
        with suppress(RayError):
            ray.kill(seat.actor)

    def _ready(self, refs: list[Any]) -> list[Any]:
        if not refs:
            time.sleep(_LOOK / 10)  # until a node comes
            return []
        ready: list[Any] = ray.wait(refs, num_returns=1, timeout=_LOOK)[0]
        return ready

    def __str__(self) -> str:
        nodes = len({spot.node for spot in self._seats})
        return f"{len(self._seats)} device{'s' * (len(self._seats) > 1)} of {nodes} node{'s' * (nodes > 1)}, by Ray"


def _spots(device: DeviceAddress) -> list[RayDevice]:
    """Devices of that kind on the nodes that are alive."""
    found = []
    for node in ray.nodes():
        cpus, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU")) if node["Alive"] else (0, 0)
        where = node["NodeID"], node["NodeManagerHostname"]
        if device.kind is not DeviceKind.CPU:
            found += [RayDevice(*where, ordinal, 0, 1) for ordinal in range(gpus)]
        elif cpus:
            found.append(RayDevice(*where, 0, cpus, 0))
    return found


def _reason(failed: RayTaskError) -> EmbedshipError:
    cause = failed.cause
    if isinstance(cause, EmbedshipError):
        return cause
    return EngineError(f"an encoder failed with {type(cause).__name__}: {short(cause)}. What is encoded stays")


def short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
