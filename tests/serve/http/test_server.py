"""The command as users run it: a process, real clients, signals."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from embedship.encoder import Encoder
from embedship.golden_texts import ALONE_FLOOR

SECONDS = 60


def cosines(left: Any, right: np.ndarray) -> np.ndarray:
    return np.sum(np.asarray(left, dtype=np.float32) * right, axis=1)


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Any:
    with Encoder.open(bundle) as encoder:
        yield encoder


def test_the_openai_client(live: Any, encoder: Encoder) -> None:
    texts = ["How do I open a file?", "zip two lists"]
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        reply = client.embeddings.create(model="any", input=texts)  # asks for base64 and decodes it
        plain = client.embeddings.create(model="any", input=texts[0], encoding_format="float")
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            client.embeddings.create(model="any", input=[[101, 102]])
    expected = encoder.encode(texts)
    assert cosines([item.embedding for item in reply.data], expected).min() > ALONE_FLOOR
    assert cosines([plain.data[0].embedding], expected[:1]).min() > ALONE_FLOOR
    assert reply.usage.prompt_tokens == sum(encoder.tokenizer(texts).lengths)


@pytest.mark.parametrize("path", ["", "/embed"])
def test_the_huggingface_client(live: Any, encoder: Encoder, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests keep the hub offline, and this client takes any server for the hub.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    client = InferenceClient(model=live.url + path, timeout=SECONDS)
    texts = ["How do I open a file?", "zip two lists"]
    expected = encoder.encode(texts, prompt_name="query")
    found = client.feature_extraction(
        texts, normalize=True, prompt_name="query", truncate=True, truncation_direction="right"
    )
    assert cosines(found, expected).min() > ALONE_FLOOR


def test_every_client_gets_its_own_vectors_under_concurrency(live: Any, encoder: Encoder) -> None:
    texts = [f"{'very ' * (i % 9)}different text number {i}, about topic {i * i}" for i in range(32)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])

    def ask(i: int) -> list[float]:
        with httpx.Client(base_url=live.url, timeout=SECONDS) as client:
            rows = [client.post("/embed", json={"inputs": texts[i]}).json()[0] for _ in range(4)]
        return [float(np.dot(row, alone[i])) for row in rows]

    with ThreadPoolExecutor(32) as threads:
        own = [value for values in threads.map(ask, range(32)) for value in values]
    assert min(own) > ALONE_FLOOR
    others = alone @ alone.T - 2 * np.eye(32)
    assert others.max() < ALONE_FLOOR, "the texts must differ for this test to be able to fail"


def test_a_bulk_request_is_answered_in_its_order_while_queries_pass(live: Any, encoder: Encoder) -> None:
    texts = [f"{'long ' * (i % 40)}passage {i}" for i in range(200)]
    with httpx.Client(base_url=live.url, timeout=SECONDS) as client, ThreadPoolExecutor(1) as thread:
        bulk = thread.submit(lambda: httpx.post(f"{live.url}/embed", json={"inputs": texts}, timeout=SECONDS))
        queries = [client.post("/embed", json={"inputs": "a short query"}).status_code for _ in range(10)]
        rows = bulk.result().json()
    assert queries == [200] * 10
    assert cosines(rows, encoder.encode(texts)).min() > ALONE_FLOOR


def test_a_client_that_leaves_is_counted_and_its_permits_return(live: Any) -> None:
    body = json.dumps({"inputs": ["a rather long text " * 60] * 200}).encode()
    head = f"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", live.port), SECONDS) as connection:
        connection.sendall(head + body)
        wait_for(lambda: sample(live, "embedship_permits_in_use") >= 200)
    wait_for(lambda: sample(live, 'embedship_rejections_total{reason="client_gone"}') == 1)
    wait_for(lambda: sample(live, "embedship_permits_in_use") == 0)


def sample(live: Any, series: str) -> float:
    lines = httpx.get(f"{live.url}/metrics", timeout=SECONDS).text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series + " "))


def wait_for(condition: Callable[[], bool], tries: int = 2_000) -> None:
    """Ask again and again: each question is a request to the server, which takes its time."""
    assert any(condition() for _ in range(tries))


class Client:
    """A keep-alive client on a bare socket, which tells a refusal from a loss."""

    BODY = b'{"inputs": "how do I open a file for reading in python"}'
    REQUEST = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)

    def __init__(self, port: int, seen: Counter[str]) -> None:
        self.port = port
        self.seen = seen

    async def run(self) -> None:
        """Ask until the server is closed for good."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                return
            try:
                while await self._ask(reader, writer):
                    pass
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.seen[f"lost: {error!r}"] += 1
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may be used for another."""
        writer.write(self.REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        self.seen[head.split(b"\r\n")[0].decode()] += 1
        return b"connection: close" not in head


async def under_fire(live: Any, clients: int, answers: int) -> tuple[Counter[str], int]:
    """Load from keep-alive clients, SIGTERM after some answers; return what they saw, and /ready in between."""
    seen: Counter[str] = Counter()
    asking = [asyncio.create_task(Client(live.port, seen).run()) for _ in range(clients)]
    while seen.total() < answers:  # noqa: ASYNC110 - a Counter tells nobody
        await asyncio.sleep(0.001)
    async with httpx.AsyncClient(base_url=live.url, timeout=SECONDS) as client:
        ready = (await client.get("/ready")).status_code  # a client and a connection take their time: before the end
        live.process.send_signal(signal.SIGTERM)
        while ready == 200:
            ready = (await client.get("/ready")).status_code
    await asyncio.gather(*asking)
    return seen, ready


def test_sigterm_under_load_loses_no_request(launch: Callable[..., Any]) -> None:
    live = launch("--drain-seconds", "5")
    seen, ready = asyncio.run(asyncio.wait_for(under_fire(live, clients=16, answers=100), SECONDS))
    assert live.end() == 0
    assert set(seen) == {"http/1.1 200 ok"}, seen
    assert ready == 503
    assert live.log[-1].endswith(": stopped\n")


def test_the_monitor_goes_on_where_the_last_server_ended(
    launch: Callable[..., Any], index_folder: Path, tmp_path: Path
) -> None:
    settings = ("--index", str(index_folder), "--state-dir", str(tmp_path), "--drain-seconds", "0")
    first = launch(*settings)
    wait_for(lambda: sample(first, 'embedship_canary_texts_total{device="cpu:0"}') > 0)
    answer = httpx.post(f"{first.url}/search", json={"query": ["one", "two"]}, timeout=SECONDS)
    body = {"request_id": answer.headers["x-request-id"], "relevant": [answer.json()["results"][0]["hits"][0]["id"]]}
    assert httpx.post(f"{first.url}/feedback", json=body, timeout=SECONDS).status_code == 200
    first.process.terminate()
    assert first.end(SECONDS) == 0
    second = launch(*settings)
    assert sample(second, "embedship_snapshot_restored") == 1
    assert sample(second, "embedship_drift_window_queries") == 2
    assert sample(second, 'embedship_recall_queries_total{source="feedback"}') == 1
    assert httpx.get(f"{second.url}/monitor", timeout=SECONDS).json()["snapshot"]["restored"]


def test_an_idle_server_ends_soon_after_sigterm(launch: Callable[..., Any]) -> None:
    live = launch("--drain-seconds", "600")
    with httpx.Client(base_url=live.url) as idle:
        assert idle.get("/health").status_code == 200
        live.process.terminate()
        assert live.end(30) == 0


def test_ctrl_c_ends_at_once_when_nothing_runs(launch: Callable[..., Any]) -> None:
    live = launch("--drain-seconds", "600")
    live.process.send_signal(signal.SIGINT)
    assert live.end(30) == 0


def test_a_second_ctrl_c_does_not_wait(launch: Callable[..., Any]) -> None:
    live = launch("--drain-seconds", "600")
    with socket.create_connection(("127.0.0.1", live.port), SECONDS) as connection:
        connection.sendall(b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n")  # and no body
        wait_for(lambda: sample(live, 'embedship_requests_total{route="/metrics",status="2xx"}') > 0)
        live.process.send_signal(signal.SIGINT)
        wait_for(lambda: httpx.get(f"{live.url}/ready", timeout=SECONDS).status_code == 503)
        live.process.send_signal(signal.SIGINT)
        assert live.end(30) == -signal.SIGINT


def refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "embedship", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_a_port_in_use_is_a_sentence(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = refused(str(bundle), "--port", port)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_setting_is_a_sentence(bundle: Path) -> None:
    ended = refused(str(bundle), "--shadow-rate", "2")
    assert ended.returncode == 2
    assert "--shadow-rate (EMBEDSHIP_SHADOW_RATE) is 2.0; allowed is 0 to 1" in ended.stderr


def test_it_starts_and_answers_where_torch_is_missing(bundle: Path) -> None:
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "sentence_transformers", "optimum", "onnx"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from pathlib import Path
from embedship.serve.http.app import App
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
with ServerState.open(Settings(bundle=Path({str(bundle)!r}))) as state:
    App(state)
print("fine")
"""
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.stdout == "fine\n", ended.stderr


def test_startup_tells_what_an_operator_asks(launch: Callable[..., Any]) -> None:
    live = launch("--streams", "1")
    log = "".join(live.log)
    for part in ("streams = 1", "variant ", "1 streams", "golden texts: ", "machine: ", "fingerprint ", "ready in "):
        assert part in log
