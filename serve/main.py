"""Server process: starts the server from its settings, and logs a summary for the operator."""

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

from embedship import hardware, terminal
from embedship.distributions import conflicts
from embedship.errors import EmbedshipError, UsageError
from embedship.serve.http.app import App
from embedship.serve.http.connection import PROBE_CONNECTIONS, ConnectionLimiter, ConnectionLimits
from embedship.serve.http.routes import dashboard
from embedship.serve.http.routes.health import metrics_routes
from embedship.serve.http.routes.info import info
from embedship.serve.http.server import GracefulServer, MetricsListener, bind_socket
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.serve.telemetry import logs, tracing
from embedship.serve.telemetry.logs import LogFormat
from embedship.shapes import describe_certificate
from embedship.terminal import Verbosity

logger = logging.getLogger(__name__)

# Maximum time to stop after the listener closed: a drain ends within 16.1 s (http/server.py), and --drain-seconds
# promises that the process exits within 20 s.
LAST_SECONDS = 19.0

# File descriptors in addition to connections: model, index, worker processes, libraries.
_FILES = 256

# Exit status if the process was stopped while work was still running. 0 is a clean stop; 1 to 4 are in errors.py.
GIVEN_UP = 5

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def run(settings: Settings) -> None:
    """Serve until a signal asks to stop. Raises EmbedshipErrors before the server listens, none afterwards."""
    began = time.perf_counter()
    os.environ[logs.VARIABLE] = settings.log_format
    logs.configure_logging(settings.log_format)
    try:
        _run(settings, began)
    except EmbedshipError as error:
        if settings.log_format is LogFormat.TEXT:
            raise
        logger.error("%s", error)  # otherwise the command would print it as plain text
        raise SystemExit(error.exit_code) from None


def _run(settings: Settings, began: float) -> None:
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs which of its builds it did not find
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # clients must not be able to fill the log
    # Otherwise each counter has a second series (its creation time), which none of our queries uses.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    _allow_files(settings.connections + PROBE_CONNECTIONS + _FILES)
    listener = bind_socket(settings.host, settings.port)
    metrics_socket = _metrics_socket(settings)
    for warning in conflicts():
        logger.warning("%s", warning)
    for line in settings.lines(every=terminal.verbosity() is Verbosity.VERBOSE):
        _log(line)
    with ServerState.open(settings) as state:
        _log_summary(state)
        traces = tracing.tracer_from_environment(os.environ)
        app = App(state, traces)
        limiter = ConnectionLimiter(_limits(settings), app.refuse, state.metrics.cut)
        side = None
        if metrics_socket:
            metrics_app = App(state, make_routes=metrics_routes)
            metrics_limiter = ConnectionLimiter(limiter.limits, metrics_app.refuse, state.metrics.cut)
            side = MetricsListener(metrics_app, metrics_socket, metrics_limiter)
            _log(f"metrics at {_url(metrics_socket)}/metrics, without a key for every client that reaches this address")

        async def background() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload.on_sighup)
            try:
                await state.run_background_tasks()
            finally:
                force_exit_after(LAST_SECONDS)

        def listening() -> None:
            _log(f"ready in {time.perf_counter() - began:.1f} s, listening on {_url(listener)}")
            for line in _banner(state, _url(listener)):
                _log(line)

        server = GracefulServer(app, listener, limiter, state.drain, listening, background, side)
        state.metrics.connections.set_function(lambda: len(server.server_state.connections))
        server.run()
        if traces:
            traces.close()
    _log("stopped")


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(**{name: getattr(settings, name) for name in ConnectionLimits.__slots__})


def _metrics_socket(settings: Settings) -> socket.socket | None:
    if settings.metrics_port is None:
        return None
    return bind_socket(
        settings.metrics_host or settings.host, settings.metrics_port, "--metrics-host or --metrics-port"
    )


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files if necessary (the usual limit is 1,024). Raises UsageError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise UsageError(
            f"--connections needs {count} open files, but this process may open at most {hard} (ulimit -Hn): lower "
            "--connections or raise the limit"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def force_exit_after(seconds: float) -> None:
    """Exit the process after this time, even if a device or a disk hangs: the operator waits for the exit."""

    def end() -> None:
        logger.warning("stopped while work was still running; that work is lost")
        os._exit(GIVEN_UP)

    last = threading.Timer(seconds, end)
    last.daemon = True
    last.start()


def _log_summary(state: ServerState) -> None:
    service = state.service
    details, golden, machine = info(service), service.golden, hardware.machine()
    _log(f"model {details.model_id}, {details.dimension} dimensions, fingerprint {details.fingerprint}")
    _log(f"variant {details.variant}: {details.runtime}, {details.precision}, {details.streams} streams")
    _log(f"devices: {', '.join(each.name for each in details.devices)}")
    _log(f"golden texts: {golden.texts}, cosine to the checkpoint min {golden.minimum:.5f}, mean {golden.mean:.5f}")
    for model in service.models:
        if certified := model.encoder.shapes:
            log = logger.warning if certified.wrong else logger.info
            log("batch shapes: %s (%s)", describe_certificate(certified), certified.runtime)
    if details.index:
        _log(f"index: {details.index.size} documents in {details.index.rows} rows, {details.index.kind}")
    if details.reranker:
        ranks = details.reranker
        _log(f"re-ranker: {ranks.model_id}, fingerprint {ranks.fingerprint[:12]}, {ranks.variant}, {ranks.precision}")
        pairs = ranks.golden
        _log(f"golden pairs: {pairs.texts}, likeness to the checkpoint min {pairs.minimum:.5f}, mean {pairs.mean:.5f}")
    if service.candidate:
        compared = service.candidate.comparison.report()
        _log(f"candidate: fingerprint {compared.fingerprint[:12]}, index {compared.index[:12]}")
    if probes := service.monitor.probes:
        _log(f"labelled queries: {len(probes.probes)}; {probes.missing} of their documents are not in the index")
    _log(f"machine: {machine.cpu}, {machine.cores:g} cores, {' '.join(machine.isa)}")
    level, line = _auth_summary(state)
    logger.log(level, "%s", line)
    for model in service.models:
        if model.warning:
            logger.warning("%s", model.warning)


def _banner(state: ServerState, url: str) -> list[str]:
    """Return the lines that say where to look and what to try first."""
    key = " -H 'Authorization: Bearer KEY'" if state.keys else ""
    path, field = ("/search", "query") if state.settings.index else ("/v1/embeddings", "input")
    body = f'{{"{field}": "a text"}}'
    metrics = "" if state.settings.metrics_port is not None else f", metrics: {url}/metrics"
    return [
        f"quality: {url}{dashboard.PATH}, API: {url}/openapi.json{metrics}",
        f"try: curl {url}{path}{key} -H 'Content-Type: application/json' -d '{body}'",
    ]


def _auth_summary(state: ServerState) -> tuple[int, str]:
    """Return the log level and the line that describes which keys are required."""
    admin = f", admin keys: {len(state.admin) or 'none'}"
    if keys := len(state.keys):
        return logging.INFO, f"API keys: {keys}{admin}"
    if state.settings.host in _LOOPBACK:
        return logging.INFO, f"API keys: none{admin}"
    return logging.WARNING, f"API keys: none{admin}; every client that reaches this address has access (--api-key-file)"


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _log(line: str) -> None:
    logger.info("%s", line)
