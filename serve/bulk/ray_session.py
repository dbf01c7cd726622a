"""Ray session: joins a Ray cluster, or starts one on this machine and stops it at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
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
_LOCALHOST = "127.0.0.1"
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_STORE_BYTES = 256 << 20  # object store of a `local` cluster, for shards in progress; Ray spills the rest to disk


class InterruptHandler:
    """Records Ctrl-C, because Ray code can catch and ignore the KeyboardInterrupt (a destructor does)."""

    def __init__(self) -> None:
        self._interrupted = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_sigint)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._interrupted:
            raise KeyboardInterrupt

    def _on_sigint(self, number: int, frame: FrameType | None) -> NoReturn:
        self._interrupted = True
        raise KeyboardInterrupt


@contextmanager
def ray_session(address: str, bundle: Bundle, variant: str, device: str) -> Iterator[EncoderPool]:
    """Yield the encoders of the cluster at `address`, at least one of them open.

    On exit, the encoders and a cluster that was started here are stopped.

    Raises UsageError if there is no cluster or if it has no such device, and every error of opening an encoder.
    """
    parsed_device = DeviceAddress.parse(device)
    if parsed_device.ordinal:
        raise UsageError(f"--device {device}: with --ray every device of this kind is used, so leave the number out")
    spec = RayEncoderSpec(bundle.folder.resolve(), bundle.manifest.digest, version("embedship"), variant, parsed_device)
    _configure_ray(address)
    from embedship.serve.bulk import ray_cluster

    # Ray prints the last log lines of a lost node to stdout, but stdout must contain only the result. Ray's own logs
    # also contain these lines.
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
        try:
            _join(address)
            with InterruptHandler() as interrupts:  # after joining, because Ray replaces signal handlers then
                cluster = ray_cluster.RayEncoderPool(bundle, spec, interrupts.check)
                cluster.open_first()
                yield cluster
        finally:
            _leave()


def _configure_ray(address: str) -> None:
    """Set environment variables. Ray reads them once, when it is imported, and its processes inherit them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray warns about a future change
    if address == LOCAL:
        # Otherwise Ray replaces 127.0.0.1 by another address of this machine, and listens on all interfaces.
        os.environ[_LOOPBACK] = "0"
        # Ray 2.60 requires a token in clusters that ray.init starts. Without this one it would use ~/.ray/auth_token,
        # which it creates readable for every user of the machine.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _join(address: str) -> None:
    import ray
    from ray.exceptions import RayError

    from embedship.serve.bulk.ray_cluster import short

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        quiet |= {
            "num_cpus": hardware.streams(), "include_dashboard": False, "object_store_memory": _STORE_BYTES,
            "_node_ip_address": _LOCALHOST,
        }  # fmt: skip
    elif address != AUTO:
        _require_listener(address)
    try:
        # Ray adds the working directory to the import path of its workers. In a checkout it contains embedship/ without
        # the other packages, so change to / first.
        with contextlib.chdir("/"):
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UsageError(f"cannot join Ray at {address}: {short(error)}") from None
    if address == LOCAL and ray.util.get_node_ip_address() != _LOCALHOST:
        raise EmbedshipError(
            "Ray listens on other addresses than 127.0.0.1, where other machines could reach it. It was stopped"
        )


def _leave() -> None:
    import ray

    ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise UsageError unless something listens at HOST:PORT. Without this check Ray would retry for a minute."""
    import ray

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray {address}: give HOST:PORT of the head node, {AUTO} or {LOCAL}")
    if host in ("localhost", _LOCALHOST):
        host = ray.util.get_node_ip_address()  # as Ray itself does, for every address of its head node
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"no connection to {address} ({error}): check that the head node of the Ray cluster is running"
        ) from None
