"""What stands on stderr: one record is one line, whatever a client sends, and it says no text and no key."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from embedship.serve.telemetry.logs import FIELDS, REQUESTS, JsonFormatter, TextFormatter
from embedship.serve.telemetry.request_context import RequestContext, current_request

from ..conftest import Live, launched

SECONDS = 60
PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
TRACE = "0af7651916cd43dd8448eb211c80319c"
NASTY = 'a\nb\r\tc\x00\x1b[2J\x7f\x85\u2028\u2029"\\\xff ü'


def record(message: str, *arguments: Any, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("test").makeRecord("test", logging.WARNING, "f", 1, message, arguments, None, extra=extra)


@pytest.mark.parametrize("form", [TextFormatter(), TextFormatter("cpu:0"), JsonFormatter(), JsonFormatter("cpu:0")])
def test_a_message_is_one_line_and_steers_no_terminal(form: logging.Formatter) -> None:
    line = form.format(record("%s", NASTY))
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)


def test_json_gives_the_message_back_as_it_was() -> None:
    line = json.loads(JsonFormatter("cpu:0").format(record("%s", NASTY)))
    assert line["message"] == NASTY
    assert (line["level"], line["logger"], line["device"]) == ("warning", "test", "cpu:0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    assert "request_id" not in line


def test_json_of_half_a_surrogate_pair_is_json() -> None:
    assert json.loads(JsonFormatter().format(record("%s", "a\ud800b")))["message"] == "a\\ud800b"


def test_an_exception_is_in_the_line_of_json() -> None:
    try:
        raise ValueError(NASTY)
    except ValueError:
        told = record("it failed")
        told.exc_info = sys.exc_info()
    line = JsonFormatter().format(told)
    assert "\n" not in line
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback")
    assert "ValueError: a" in exception


def test_a_line_names_the_request_that_is_answered_or_those_it_is_about() -> None:
    about = record("a batch failed", **{REQUESTS: ["a1", "b2"]})
    assert json.loads(JsonFormatter().format(about))["requests"] == ["a1", "b2"]
    assert TextFormatter().format(about).endswith("a batch failed [a1, b2]")
    entered = current_request.set(
        RequestContext([(b"x-request-id", b"c3"), (b"traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode())])
    )
    try:
        line = json.loads(JsonFormatter().format(record("failed", **{FIELDS: {"status": 500}})))
        assert TextFormatter().format(record("failed")).endswith("failed [c3]")
    finally:
        current_request.reset(entered)
    assert (line["request_id"], line["trace_id"], line["status"]) == ("c3", TRACE, 500)


def test_what_nobody_catches_and_warnings_are_lines_too() -> None:
    code = """
import logging, threading, warnings
from embedship.serve.telemetry.logs import LogFormat, configure_logging
configure_logging(LogFormat.JSON, "cpu:0")
warnings.warn("old\\nways")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise RuntimeError("the\\nend")
"""
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    warned, divided, over = (json.loads(line) for line in ended.stderr.splitlines())
    assert ended.returncode == 1
    assert "old\nways" in warned["message"]
    assert "ZeroDivisionError" in divided["exception"]
    assert "RuntimeError: the\nend" in over["exception"]
    assert {each["device"] for each in (warned, divided, over)} == {"cpu:0"}


def test_a_refusal_to_start_is_a_line_of_json(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "embedship", "serve", str(tmp_path), "--port", "0", "--log-format", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    last = [json.loads(line) for line in ended.stderr.splitlines()][-1]
    assert ended.returncode > 0
    assert last["level"] == "error"
    assert str(tmp_path) in last["message"]


@pytest.fixture(scope="module")
def told(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = {"EMBEDSHIP_API_KEYS": "secret-key-of-users", "EMBEDSHIP_ADMIN_KEYS": "secret-key-of-admins"}
    with launched(str(bundle), "--log-format", "json", "--access-log", "--drain-seconds", "0", **keys) as server:
        yield server


USER = {"authorization": "Bearer secret-key-of-users"}
ADMIN = {"authorization": "Bearer secret-key-of-admins"}


def test_the_log_of_a_server_is_json_whatever_is_sent(told: Live) -> None:
    with httpx.Client(base_url=told.url, timeout=SECONDS, headers=USER) as client:
        ids = {"x-request-id": "mine.1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        assert client.post("/embed", json={"inputs": ["secret text", "two"]}, headers=ids).status_code == 200
        odd = {"x-request-id": b"\xff\x9b[2J", "x-embedship-lane": b"\xfe\x9b"}
        assert client.post("/embed", json={"inputs": "a"}, headers=odd).status_code == 422
        assert client.get("/no%0Awhere%00%1B%5B2J%FF").status_code == 404
        body = {"bundle": f"/nowhere/{NASTY.replace(chr(0), '')}"}
        assert client.post("/admin/reload", json=body, headers=ADMIN | {"x-request-id": "r.2"}).status_code == 409
    with socket.create_connection(("127.0.0.1", told.port), SECONDS) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP\n{}\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    told.process.send_signal(signal.SIGTERM)
    assert told.end() == 0
    lines = [json.loads(line) for line in told.log]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    said = "\n".join(told.log)
    for secret in ("secret text", "secret-key-of-users", "secret-key-of-admins"):
        assert secret not in said

    lifecycle = [line["message"] for line in lines if line["logger"] == "embedship.serve.main"]
    assert any(message.startswith("ready in ") for message in lifecycle)
    assert lifecycle[-1] == "stopped"

    accesses = [line for line in lines if line["logger"] == "embedship.access"]
    embedded, refused, lost, reload = (
        next(line for line in accesses if (line["route"], line["status"]) == each)
        for each in (("/embed", 200), ("/embed", 422), ("other", 404), ("/admin/reload", 409))
    )
    assert (embedded["request_id"], embedded["trace_id"]) == ("mine.1", TRACE)
    assert (embedded["method"], embedded["texts"], embedded["tokens"]) == ("POST", 2, 7)
    assert list(embedded["seconds"]) == ["total", "read", "tokenise", "queue", "inference", "serialise"]
    total, *phases = embedded["seconds"].values()
    assert 0 < sum(phases) <= total
    assert re.fullmatch("[0-9a-f]{16}", refused["request_id"])
    assert (lost["texts"], list(lost["seconds"])) == (0, ["total"])

    (example,) = re.findall(r"^{.*}$", PAGE.read_text(), re.MULTILINE)
    assert list(json.loads(example)) == [key for key in embedded if key != "trace_id"]
    assert json.loads(example)["seconds"].keys() == embedded["seconds"].keys()

    (kept,) = [line for line in lines if line["message"].startswith("reload failed")]
    assert (kept["level"], kept["request_id"]) == ("error", reload["request_id"]) == ("error", "r.2")


def test_a_line_of_text_tells_the_same(live: Live, bundle: Path) -> None:
    """By default no request is logged, and a line is its time, its level, who says it, and what."""
    assert httpx.post(f"{live.url}/embed", json={"inputs": "a"}, timeout=SECONDS).status_code == 200
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) [\w.]+: .+\n"
    assert all(re.fullmatch(pattern, line) for line in live.log), live.log
    assert "embedship.access" not in "".join(live.log)
