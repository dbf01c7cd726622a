"""A deadline ends a request, and what it waited for costs nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from embedship.serve.batching.executor import PendingRequest
from embedship.serve.batching.priority_queue import PriorityQueue, QueuedText
from embedship.serve.errors import ClientDeadlineExceeded, Invalid
from embedship.serve.http import deadline
from embedship.serve.http.deadline import RequestTimeout
from embedship.serve.telemetry.request_context import Priority

LONG = {"inputs": ["a rather long text " * 60] * 60}


def test_the_client_may_ask_for_less_but_not_for_more() -> None:
    assert deadline.timeout_from_headers([(b"host", b"x")], 60.0) == (60.0, False)
    assert deadline.timeout_from_headers([(b"x-request-timeout-ms", b"250")], 60.0) == (0.25, True)
    assert deadline.timeout_from_headers([(b"x-request-timeout-ms", b"250000")], 60.0) == (60.0, False)
    assert deadline.timeout_from_headers([(b"x-request-timeout-ms", b"60000")], 60.0) == (60.0, False), (
        "it asks for nothing less"
    )


@pytest.mark.parametrize("given", [b"", b"0", b"-1", b"1.5", b"soon", b"9" * 30])
def test_what_is_no_time_is_refused(given: bytes) -> None:
    with pytest.raises(Invalid, match="whole number of milliseconds"):
        deadline.timeout_from_headers([(b"x-request-timeout-ms", given)], 60.0)


@pytest.mark.parametrize(("path", "field"), [("/embed", "inputs"), ("/v1/embeddings", "input")])
def test_a_deadline_that_passes_is_504_in_the_shape_of_the_route(api: Any, path: str, field: str) -> None:
    async def ask_and_wait() -> httpx.Response:
        """Return the answer once the permits are free: they are held until the work has stopped, on this loop."""
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api.app), base_url="http://test") as client:
            answer = await client.post(path, json={field: LONG["inputs"]}, headers={"x-request-timeout-ms": "1"})
            end = time.monotonic() + 30
            while api.metric("embedship_permits_in_use") > held and time.monotonic() < end:  # noqa: ASYNC110 -- a gauge has no event
                await asyncio.sleep(0.01)
            return answer

    before = api.metric("embedship_rejections_total", reason="expired")
    held = api.metric("embedship_permits_in_use")
    answer = asyncio.run(ask_and_wait())
    assert answer.status_code == 504
    assert "No response within 0.001 s" in str(answer.json()["error"])
    assert api.metric("embedship_rejections_total", reason="expired") == before + 1
    assert api.metric("embedship_permits_in_use") == held


def test_a_server_that_is_late_by_its_own_limit_has_failed(fresh: Callable[..., Any]) -> None:
    api = fresh(request_seconds=0.001)
    answer = api.post("/embed", LONG)
    assert "(--request-seconds)" in answer.json()["error"], "nothing that the client could ask for helps"
    assert (answer.status_code, answer.json()["error_type"]) == (504, "Overloaded")
    assert api.metric("embedship_failures_total", reason="timed_out") == 1
    assert api.metric("embedship_rejections_total", reason="expired") == 0


def test_the_time_of_a_request_begins_when_its_body_has_come(fresh: Callable[..., Any]) -> None:
    async def slow() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05)  # fifty times what the request may take
        yield b"{"

    api = fresh(request_seconds=0.001)
    assert api.ask("POST", "/embed", content=slow()).status_code == 400, "no JSON, and in time"


def test_texts_whose_deadline_has_passed_are_never_taken() -> None:
    async def go() -> None:
        lanes: PriorityQueue[PendingRequest] = PriorityQueue(1_000)
        late, patient = (PendingRequest(1, 4, asyncio.get_running_loop().create_future()) for _ in range(2))
        lanes.put(Priority.BULK, [QueuedText(late, 0, [1] * 10), QueuedText(patient, 0, [1] * 10)])
        with pytest.raises(ClientDeadlineExceeded):
            async with deadline.enforce_timeout(RequestTimeout(0.001, chosen=True)):
                await late.future
        assert [work.request for work in lanes.take()] == [patient]
        assert len(lanes) == 0

    asyncio.run(go())


def test_a_time_out_that_is_not_the_deadline_is_not_taken_for_it() -> None:
    async def go() -> None:
        async with deadline.enforce_timeout(RequestTimeout(60.0, chosen=True)):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        asyncio.run(go())


def test_a_server_that_hangs_at_its_end_is_ended() -> None:
    code = (
        "import threading\nfrom embedship.serve.main import force_exit_after\n"
        "force_exit_after(0.1)\nthreading.Event().wait()"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 5, "work was given up: no clean stop, and none of the errors of a command"
    assert "that work is lost" in ended.stderr
