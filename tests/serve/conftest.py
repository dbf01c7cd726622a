"""A service in this process, driven through its ASGI door, and a real server behind a real port."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import msgspec
import pytest

from embedship import variant_choice
from embedship.bundle import Bundle
from embedship.encoder import Encoder
from embedship.serve.http.app import App
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.service.service import ModelService
from embedship.serve.service.state import ServerState
from embedship.serve.settings import Settings
from embedship.serve.telemetry.tracing import RequestTracer
from embedship.stdlib_docs import entries

START_SECONDS = 60


class Asked:
    """A house and its app; `ask` sends one request through httpx's ASGI transport."""

    def __init__(self, state: ServerState, traces: RequestTracer | None = None) -> None:
        self.state = state
        self.app = App(state, traces)

    @property
    def service(self) -> ModelService:
        """The one that answers now."""
        return self.state.service

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            admission = self.service.inference.admission
            before = admission.inside
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = await client.request(method, path, **options)
            # Work of a late request may go on in a thread. This loop releases its permit, so it must not end before.
            while answer.status_code == 504 and admission.inside > before:  # noqa: ASYNC110  nothing signals it
                await asyncio.sleep(0.005)
            return answer

        return asyncio.run(send())

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.ask("POST", path, json=body)

    def metric(self, name: str, **labels: str) -> float:
        value = self.state.registry.get_sample_value(name, labels)
        assert value is not None, f"{name}{labels} is not exported"
        return value


@contextmanager
def opened(settings: Settings) -> Iterator[Asked]:
    with ServerState.open(settings) as state:
        yield Asked(state)


@pytest.fixture(scope="session")
def settings(bundle: Path) -> Settings:
    return Settings(bundle=bundle, max_texts=64, queue_texts=256, max_characters=10_000, max_body_bytes=100_000)


@pytest.fixture(scope="session")
def api(settings: Settings) -> Iterator[Asked]:
    with opened(settings) as asked:
        yield asked


@pytest.fixture
def fresh(settings: Settings) -> Iterator[Callable[..., Asked]]:
    """Open a service of the test's own, with some settings changed."""
    from dataclasses import replace

    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(opened(replace(settings, **changes)))


@pytest.fixture(scope="session")
def passages() -> list[dict[str, Any]]:
    rows = [{"id": e.id, "text": e.body[:300], "title": e.summary} for e in entries(60)]
    rows[0]["metadata"] = {"kind": "first"}
    return rows


@pytest.fixture(scope="session")
def index_folder(bundle: Path, passages: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    lines = folder / "corpus.jsonl"
    lines.write_bytes(b"\n".join(msgspec.json.encode(row) for row in passages))
    with Encoder.open(bundle) as encoder:
        variant = encoder.variant.name
        build(encoder, variant, lines, folder / "index", IndexOptions(), lambda *_: None)
    return folder / "index"


@dataclass
class Live:
    """`embedship serve` as a process of its own."""

    process: subprocess.Popen[str]
    url: str
    log: list[str]
    reader: Thread

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def end(self, seconds: float = 60) -> int:
        """Wait for the process to exit by itself, and return its exit code."""
        code = self.process.wait(seconds)
        self.reader.join(seconds)
        return code


@contextmanager
def launched(*arguments: str, before: Sequence[str] = (), **variables: str) -> Iterator[Live]:
    """Start the command and wait for the line that says where it listens; end it whatever happens.

    `before` is a command that runs it; `variables` are added to the environment.
    """
    # -P: in a checkout the working directory holds an embedship/ without its rooms.
    command = [*before, sys.executable, "-P", "-m", "embedship", "serve", *arguments, "--port", "0"]
    # Wide, because rich would wrap error messages at 80 columns.
    environment = {**os.environ, "COLUMNS": "1000", **variables}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    log: list[str] = []
    reader = Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    try:
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, f"the server ended before it listened: {log}"
            log.append(line)
            found = re.search(r'listening on (http://[^\s"]+)', line)
        reader.start()
        yield Live(process, found[1], log, reader)
    finally:
        process.kill()
        process.wait(START_SECONDS)
        if reader.is_alive():
            reader.join(START_SECONDS)
        process.stderr.close()


@pytest.fixture
def launch(bundle: Path) -> Iterator[Callable[..., Live]]:
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(launched(str(bundle), *arguments))


@pytest.fixture(scope="session")
def live(bundle: Path) -> Iterator[Live]:
    with launched(str(bundle)) as server:
        yield server


@pytest.fixture
def altered(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage: hard links, so that it costs no disk."""
    opened = Bundle.open(bundle)
    chosen = variant_choice.variant(opened)
    for name in opened.files_of(chosen):
        target = tmp_path / "altered" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(bundle / name, target) if os.stat(bundle).st_dev == os.stat(tmp_path).st_dev else None
        if not target.exists():
            target.write_bytes((bundle / name).read_bytes())
    only = msgspec.structs.replace(opened.manifest, variants=(chosen,))
    Bundle.write(tmp_path / "altered", only)
    return tmp_path / "altered"
