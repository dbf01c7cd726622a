"""Traces: what a span says, in this process; what a collector gets from a server, and what one costs that is gone."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from embedship.serve.telemetry import tracing
from embedship.serve.telemetry.spans import OtelTracer

from ..conftest import Asked, launched

SECONDS = 60
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
PHASES = ["read", "tokenise", "queue", "inference", "serialise"]


class Seen(Asked):
    """A service whose spans are kept in memory."""

    def __init__(self, state: Any) -> None:
        self.kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.kept))
        super().__init__(state, OtelTracer(provider))

    def spans(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The server's span, and those inside it."""
        *phases, server = self.kept.get_finished_spans()
        return server, phases


@pytest.fixture
def seen(api: Asked) -> Seen:
    return Seen(api.state)


def test_a_request_is_a_span_of_the_clients_trace_and_its_phases_are_inside(seen: Seen) -> None:
    before = time.time_ns()
    ids = {"x-request-id": "mine.1"}
    answer = seen.ask("POST", "/embed", json={"inputs": ["a text", "two"]}, headers=PARENT | ids)
    server, phases = seen.spans()
    assert (server.name, server.kind, server.status.status_code) == ("POST /embed", SpanKind.SERVER, StatusCode.UNSET)
    assert f"{server.context.trace_id:032x}" == TRACE
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == SPAN
    assert server.parent.is_remote
    assert server.attributes is not None
    assert dict(server.attributes) == {
        "http.request.method": "POST", "http.route": "/embed", "http.response.status_code": 200, "url.path": "/embed",
        "url.scheme": "http", "network.protocol.version": "1.1", "server.address": "test", "embedship.texts": 2,
        "embedship.tokens": 7, "embedship.request_id": "mine.1",
    }  # fmt: skip
    assert [phase.name for phase in phases] == PHASES
    assert {phase.parent.span_id for phase in phases if phase.parent} == {server.context.span_id}
    edges = [before, server.start_time, *(edge for phase in phases for edge in (phase.start_time, phase.end_time))]
    edges += [server.end_time, time.time_ns()]
    assert None not in edges
    assert edges == sorted(edge for edge in edges if edge is not None)
    assert answer.headers["x-request-id"] == "mine.1"


def test_a_request_without_a_trace_begins_one(seen: Seen) -> None:
    seen.post("/v1/embeddings", {"input": "a"})
    server, phases = seen.spans()
    assert server.parent is None
    assert {phase.context.trace_id for phase in phases} == {server.context.trace_id}


def test_what_the_client_does_not_sample_is_not_sampled(seen: Seen) -> None:
    seen.ask("POST", "/embed", json={"inputs": "a"}, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert seen.kept.get_finished_spans() == ()


def test_failures_and_refusals_are_told_apart(seen: Seen) -> None:
    late = {"inputs": ["a rather long text " * 60] * 60}
    assert seen.ask("POST", "/embed", json=late, headers={"x-request-timeout-ms": "1"}).status_code == 504
    server, _ = seen.spans()
    assert server.attributes is not None
    assert (server.status.status_code, server.attributes["error.type"]) == (StatusCode.ERROR, "504")
    seen.kept.clear()
    seen.post("/embed", {"inputs": [1]})
    server, phases = seen.spans()
    assert server.attributes is not None
    assert (server.status.status_code, server.attributes["http.response.status_code"]) == (StatusCode.UNSET, 422)
    assert ("error.type" in server.attributes, phases) == (False, [])


def test_a_path_that_is_no_route_names_no_span_and_probes_have_none(seen: Seen) -> None:
    seen.post("/no/where", {})
    server, _ = seen.spans()
    assert server.attributes is not None
    assert (server.name, "http.route" in server.attributes) == ("POST", False)
    seen.kept.clear()
    for path in ("/health", "/ready", "/metrics"):
        seen.ask("GET", path)
    assert seen.kept.get_finished_spans() == ()


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, ""),
        ({"OTEL_SERVICE_NAME": "x"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ""),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, ""),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "zipkin"}, "otlp is the only supported exporter"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "is grpc, but only http/protobuf is supported"),
    ],
)
def test_it_is_off_unless_asked_for(environment: dict[str, str], says: str, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        assert tracing.tracer_from_environment(environment) is None
    assert says in caplog.text if says else not caplog.text


@pytest.mark.parametrize("environment", [ENDPOINT, {"OTEL_TRACES_EXPORTER": "otlp"}])
def test_it_is_on_where_asked_for(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    traces = tracing.tracer_from_environment(environment)
    assert isinstance(traces, OtelTracer)
    traces.close()


def test_it_costs_no_import_without_the_variables_and_no_request_without_the_extra() -> None:
    code = """
import sys
import embedship.serve.main
from embedship.serve.telemetry import tracing
assert tracing.tracer_from_environment({}) is None
print([name for name in sys.modules if name.startswith("opentelemetry")])

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError("No module named " + name, name=name)

sys.meta_path.insert(0, Missing())
assert tracing.tracer_from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}) is None
"""
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.stdout == "[]\n", ended.stderr
    assert "tracing is disabled: opentelemetry is not installed. It comes with the extra [otel]" in ended.stderr


@contextmanager
def collector() -> Iterator[tuple[str, Queue[ExportTraceServiceRequest]]]:
    """An OTLP/HTTP collector on loopback: where it is, and what it gets."""
    got: Queue[ExportTraceServiceRequest] = Queue()

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            body = self.rfile.read(int(self.headers["content-length"]))
            got.put(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join(SECONDS)


def test_a_collector_gets_the_spans_of_a_server_the_last_ones_at_its_end(bundle: Path) -> None:
    with collector() as (url, got):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}
        with launched(str(bundle), "--drain-seconds", "0", **variables) as server:
            asked = httpx.post(f"{server.url}/embed", json={"inputs": "a"}, headers=PARENT, timeout=SECONDS)
            assert asked.status_code == 200
            server.process.send_signal(signal.SIGTERM)
            assert server.end() == 0
        (sent,) = [each for export in [got.get(timeout=SECONDS)] for each in export.resource_spans]
    about = {each.key: each.value.string_value for each in sent.resource.attributes}
    assert (about["service.name"], about["deployment.environment"]) == ("embedship", "test")
    spans = list(sent.scope_spans[0].spans)
    assert [span.name for span in spans] == [*PHASES, "POST /embed"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert spans[-1].parent_span_id.hex() == SPAN
    assert {span.parent_span_id for span in spans[:-1]} == {spans[-1].span_id}


def closed() -> str:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_collector_that_is_gone_costs_no_request_and_no_late_end(bundle: Path) -> None:
    with launched(str(bundle), "--drain-seconds", "0", OTEL_EXPORTER_OTLP_ENDPOINT=closed()) as server:
        with httpx.Client(base_url=server.url, timeout=SECONDS) as client:
            answers = [client.post("/embed", json={"inputs": "a"}).status_code for _ in range(100)]
        assert answers == [200] * 100
        server.process.send_signal(signal.SIGTERM)
        assert server.end(30) == 0
        assert server.log[-1].endswith(": stopped\n"), "and not by the clock that ends what hangs"


def test_what_cannot_be_sent_is_bounded(api: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", closed())
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")

    def held() -> int:
        gc.collect()
        return sum(issubclass(type(each), ReadableSpan) for each in gc.get_objects())

    before = held()  # by other tests in this process
    spans = OtelTracer.open()
    asked = Asked(api.state, spans)
    try:
        for _ in range(50):  # of six spans each
            asked.post("/embed", {"inputs": "a"})
        assert held() <= before + 32 + 16
    finally:
        spans.close()
