"""Joining a Ray cluster, or starting one on this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any, NoReturn, Self

from embedship import hardware
from embedship.bundle import Bundle
from embedship.device import DeviceAddress
from embedship.errors import EmbedshipError, UsageError
from embedship.serve.bulk.ray_worker import RayEncoderSpec
from embedship.serve.bulk.shards import EncoderPool

LOCAL, AUTO = "local", "auto"
_HERE = "127.0.0.1"
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_STORE = 256 << 20  # bytes, of `local`: shards under way; what does not fit goes to the disk


class InterruptHandler:
    """Ctrl-C, also where it strikes in code of Ray's that swallows the exception (a destructor does)."""

    def __init__(self) -> None:
        self._seen = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self._seen:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> NoReturn:
        self._seen = True
        raise KeyboardInterrupt


@contextmanager
def ray_session(address: str, bundle: Bundle, variant: str, device: str) -> Iterator[EncoderPool]:
    """Encoders on the cluster at `address`, the first of them open. All that was started ends with the block.

    Raises UsageError where there is no cluster, or none with such devices, and whatever keeps encoders from opening.
    """
    where = DeviceAddress.parse(device)
    if where.ordinal:
        raise UsageError(f"--device {device}: with --ray every device of the kind is used, so leave the number out")
    order = RayEncoderSpec(bundle.folder.resolve(), bundle.manifest.digest, version("embedship"), variant, where)
    _quieten(address)
    from embedship.serve.bulk import ray_cluster

    # Ray prints the last lines of a lost node's log there, and stdout is for the result; its own logs have them, too.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            _join(address)
            with InterruptHandler() as interrupts:  # Ray sets handlers of its own when it is joined
                cluster = ray_cluster.RayEncoderPool(bundle, order, interrupts.check)
                cluster.open_first()
                yield cluster
        finally:
            _leave()


def _quieten(address: str) -> None:
    """Ray reads these once, when it is imported, and its processes inherit them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what it will do one day
    if address == LOCAL:
        os.environ[_LOOPBACK] = "0"  # else it takes 127.0.0.1 for this machine's other address, and listens on all


def _join(address: str) -> None:
    import ray
    from ray.exceptions import RayError

    from embedship.serve.bulk.ray_cluster import short

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        quiet |= {
            "num_cpus": hardware.streams(), "include_dashboard": False, "object_store_memory": _STORE,
            "_node_ip_address": _HERE,
        }  # fmt: skip
    elif address != AUTO:
        _require_listener(address)
    try:
        # Ray puts the working directory on its workers' path, and that of a checkout holds an embedship/ without rooms.
        with contextlib.chdir("/"):
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UsageError(f"Ray at {address} cannot be joined: {short(error)}") from None
    if address == LOCAL and ray.util.get_node_ip_address() != _HERE:
        raise EmbedshipError("Ray listens on more than 127.0.0.1, though nothing else may reach it: it is ended")


def _leave() -> None:
    import ray

    ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray itself would try for a minute."""
    import ray

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray {address}: give HOST:PORT of the head, {AUTO} or {LOCAL}")
    if host in ("localhost", _HERE):
        host = ray.util.get_node_ip_address()  # as Ray does, whatever its head listens on
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"nothing answers at {address} ({error}): is the head of the Ray cluster there?") from None
