"""From settings to a listening server, with what an operator wants to read about it on stderr."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import threading
import time

import prometheus_client

from embedship import hardware
from embedship.distributions import conflicts
from embedship.errors import EmbedshipError, UsageError
from embedship.serve.http.app import App
from embedship.serve.http.connection import PROBE_CONNECTIONS, ConnectionLimiter, ConnectionLimits
from embedship.serve.http.routes.health import beside
from embedship.serve.http.routes.info import info
from embedship.serve.http.server import GracefulServer, MetricsListener, bind_socket
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.serve.telemetry import logs, tracing
from embedship.serve.telemetry.logs import LogFormat
from embedship.shapes import remark

logger = logging.getLogger(__name__)

# The drain's end takes 16.1 s at most (server.py), and --drain-seconds promises an exit after 20.
LAST_SECONDS = 19.0

# Files besides connections: the model, the index, worker processes, libraries.
_FILES = 256

# The exit status where work was given up at the end: 0 is a clean stop, 1 to 4 are those of errors.py.
GIVEN_UP = 5

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def run(settings: Settings) -> None:
    """Serve until a signal says stop. Raises EmbedshipErrors before it listens, none after."""
    began = time.perf_counter()
    os.environ[logs.VARIABLE] = settings.log_format
    logs.configure_logging(settings.log_format)
    try:
        _run(settings, began)
    except EmbedshipError as error:
        if settings.log_format is LogFormat.TEXT:
            raise
        logger.error("%s", error)  # the command would say it as a line of text
        raise SystemExit(error.exit_code) from None


def _run(settings: Settings, began: float) -> None:
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells which of its builds it did not find
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a client must not be able to fill the log
    # A second series for each counter, which no query here uses.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    _allow_files(settings.connections + PROBE_CONNECTIONS + _FILES)
    listener = bind_socket(settings.host, settings.port)
    aside = _metrics_listener(settings)
    for sentence in conflicts():
        logger.warning("%s", sentence)
    for line in settings.lines():
        _log(line)
    with ServerState.open(settings) as house:
        _log_summary(house)
        traces = tracing.tracer_from_environment(os.environ)
        app = App(house, traces)
        gate = ConnectionLimiter(_limits(settings), app.refuse, house.metrics.cut)
        side = None
        if aside:
            watched = App(house, offer=beside)
            side = MetricsListener(watched, aside, ConnectionLimiter(gate.limits, watched.refuse, house.metrics.cut))
            _log(f"metrics at {_url(aside)}/metrics, for everybody who reaches that address")

        async def rounds() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload.signalled)
            try:
                await house.run_background_tasks()
            finally:
                force_exit_after(LAST_SECONDS)

        def listening() -> None:
            _log(f"ready in {time.perf_counter() - began:.1f} s, listening on {_url(listener)}")

        server = GracefulServer(app, listener, gate, house.drain, listening, rounds, side)
        house.metrics.connections.set_function(lambda: len(server.server_state.connections))
        server.run()
        if traces:
            traces.close()
    _log("stopped")


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(**{name: getattr(settings, name) for name in ConnectionLimits.__slots__})


def _metrics_listener(settings: Settings) -> socket.socket | None:
    if settings.metrics_port is None:
        return None
    return bind_socket(
        settings.metrics_host or settings.host, settings.metrics_port, "--metrics-host or --metrics-port"
    )


def _allow_files(count: int) -> None:
    """Raise this process' own limit of open files if need be: a shell gives 1,024. Raises UsageError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise UsageError(
            f"--connections needs {count} open files, and this process may have {hard} (ulimit -Hn): lower the first "
            "or raise the second"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def force_exit_after(seconds: float) -> None:
    """End the process then, whatever still hangs in a device or a disk: who drains a server waits for its exit."""

    def end() -> None:
        logger.warning("stopped: what still ran was given up")
        os._exit(GIVEN_UP)

    last = threading.Timer(seconds, end)
    last.daemon = True
    last.start()


def _log_summary(house: ServerState) -> None:
    service = house.service
    told, golden, machine = info(service), service.golden, hardware.machine()
    _log(f"model {told.model_id}, {told.dimension} dimensions, fingerprint {told.fingerprint}")
    _log(f"variant {told.variant}: {told.runtime}, {told.precision}, {told.streams} streams")
    _log(f"devices: {', '.join(each.name for each in told.devices)}")
    _log(f"golden texts: {golden.texts}, cosine to the checkpoint min {golden.minimum:.5f}, mean {golden.mean:.5f}")
    for model in service.models:
        if certified := model.encoder.shapes:
            say = logger.warning if certified.wrong else logger.info
            say("shapes of batches: %s (%s)", remark(certified), certified.runtime)
    if told.index:
        _log(f"index: {told.index.size} documents in {told.index.rows} rows, {told.index.kind}")
    if told.reranker:
        ranks = told.reranker
        _log(f"re-ranker: {ranks.model_id}, fingerprint {ranks.fingerprint[:12]}, {ranks.variant}, {ranks.precision}")
        pairs = ranks.golden
        _log(f"golden pairs: {pairs.texts}, likeness to the checkpoint min {pairs.minimum:.5f}, mean {pairs.mean:.5f}")
    if service.candidate:
        compared = service.candidate.comparison.report()
        _log(f"candidate: fingerprint {compared.fingerprint[:12]}, index {compared.index[:12]}")
    if probes := service.watch.probes:
        _log(f"probes: {len(probes.probes)}, {probes.missing} labels name documents that the index does not hold")
    _log(f"machine: {machine.cpu}, {machine.cores:g} cores, {' '.join(machine.isa)}")
    level, guard = _auth_summary(house)
    logger.log(level, "%s", guard)
    for model in service.models:
        if model.remark:
            logger.warning("%s", model.remark)


def _auth_summary(house: ServerState) -> tuple[int, str]:
    """How it is guarded, and at which level to say so."""
    admin = f", admin keys: {len(house.admin) or 'none'}"
    if keys := len(house.keys):
        return logging.INFO, f"API keys: {keys}{admin}"
    if house.settings.host in _LOOPBACK:
        return logging.INFO, f"API keys: none{admin}"
    return logging.WARNING, f"API keys: none{admin}; everybody who reaches this address may ask (--api-key-file)"


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _log(line: str) -> None:
    logger.info("%s", line)
