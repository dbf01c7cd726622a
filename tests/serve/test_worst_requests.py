"""The table of docs/threat-model.md: the most expensive request of each route keeps to its bounds on a real server."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from embedship import variant_choice
from embedship.bundle import Bundle
from embedship.serve.documents import store
from embedship.serve.documents.store import DOCUMENTS, Document
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import TruncatedTexts
from embedship.serve.indexing import build
from embedship.serve.indexing.build import EmbeddingInfo, IndexOptions

from .conftest import Live, launched

SECONDS = 60
KEY = "a-key-of-the-tests-0123456789"
ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
BODY = 16 * MIB
TEXTS = 2_048

# Time that the client allows. What a request costs after it is what nothing interrupts.
ALLOWED_SECONDS = 0.3

DOCUMENT_COUNT = 4_000
COMMON_WORDS = " ".join(f"w{n}" for n in range(64))


@dataclass(frozen=True)
class Request:
    """One request; its body is made when it is sent, because a body has up to 16 MiB."""

    method: str
    path: str
    body: Callable[[], Any] | None = None


def texts(total: int = BODY - 100_000, count: int = TEXTS) -> list[str]:
    """`count` texts that fill a body: letters and spaces, so that every second byte is a token."""
    return [("a " * (total // count // 2))[:-4] for _ in range(count)]


def pairs() -> tuple[str, list[str]]:
    """The query is tokenized again with every document, so its characters count as often."""
    return "a " * 3_900, ["a " * 100] * TEXTS


def documents() -> dict[str, Any]:
    """The largest change: 2,048 documents, with thousands of values to filter by."""
    metadata = {"tags": [f"t{n}" for n in range(500)]}
    changed = texts(BODY // 4)
    return {
        "documents": [{"id": f"new-{n}", "text": text, "metadata": metadata} for n, text in enumerate(changed)],
        "delete": [f"gone-{n}" for n in range(TEXTS)],
    }


def search(**options: Any) -> Callable[[], Any]:
    return lambda: {"query": ["a"], **options}


def ids(count: int, each: int) -> list[list[int]]:
    return [[1_037] * each for _ in range(count)]


tags = {"tag": {"in": [f"t{n}" for n in range(1_000)]}}
filters = {f"f{n}": {"in": [*range(60)], "gte": 0} for n in range(63)} | {"tag": {"in": [f"t{n}" for n in range(300)]}}

# By route; the first request of each is named in the table.
REQUESTS: dict[str, list[Request]] = {
    "POST /v1/embeddings": [Request("POST", "/v1/embeddings", lambda: {"input": texts()})],
    "POST /embed": [Request("POST", "/embed", lambda: {"inputs": texts()})],
    "POST /": [Request("POST", "/", lambda: {"inputs": texts()})],
    "POST /embeddings": [Request("POST", "/embeddings", lambda: {"input": texts()})],
    "POST /v1/encode": [Request("POST", "/v1/encode", lambda: {"texts": texts()})],
    "POST /v2/embed": [
        Request("POST", "/v2/embed", lambda: {"texts": texts(), "input_type": "search_query"}),
        Request(
            "POST",
            "/v2/embed",
            lambda: {"texts": ["a"] * 60, "input_type": "search_query", "embedding_types": ["int8"] * 1_000_000},
        ),
    ],
    "POST /v1/embed": [
        Request("POST", "/v1/embed", lambda: {"texts": texts()}),
        Request("POST", "/v1/embed", lambda: {"texts": ["a"] * 60, "embedding_types": ["int8"] * 1_000_000}),
    ],
    "POST /api/embed": [Request("POST", "/api/embed", lambda: {"input": texts()})],
    "POST /similarity": [
        Request("POST", "/similarity", lambda: {"inputs": {"source_sentence": "a", "sentences": texts()[1:]}})
    ],
    "POST /tokenize": [
        Request("POST", "/tokenize", lambda: {"inputs": texts()}),
        Request("POST", "/tokenize", lambda: {"inputs": texts(BODY - 100_000, 84)}),
    ],
    "POST /decode": [
        Request("POST", "/decode", lambda: {"ids": ids(TEXTS, 1_300)}),
        Request("POST", "/decode", lambda: {"ids": ids(13, 200_000)}),
    ],
    "POST /rerank": [Request("POST", "/rerank", lambda: dict(zip(("query", "texts"), pairs(), strict=True)))],
    "POST /v1/rerank": [Request("POST", "/v1/rerank", lambda: dict(zip(("query", "documents"), pairs(), strict=True)))],
    "POST /v2/rerank": [Request("POST", "/v2/rerank", lambda: dict(zip(("query", "documents"), pairs(), strict=True)))],
    "POST /score": [Request("POST", "/score", lambda: dict(zip(("text_1", "text_2"), pairs(), strict=True)))],
    "POST /v1/score": [Request("POST", "/v1/score", lambda: dict(zip(("text_1", "text_2"), pairs(), strict=True)))],
    "POST /search": [
        Request("POST", "/search", lambda: {"query": [COMMON_WORDS] * 64, "k": 156, "mode": "hybrid"}),
        Request("POST", "/search", lambda: {"query": texts(), "k": 4}),
        Request("POST", "/search", lambda: {"query": [COMMON_WORDS] * 10, "k": 1_000, "mode": "keyword"}),
        Request("POST", "/search", lambda: {"query": ["a"] * 10, "k": 1_000, "filter": filters}),
        Request("POST", "/search", lambda: {"query": ["a", "b"], "k": 1_000, "rerank": {"top": 1_000}}),
    ],
    "POST /feedback": [
        Request(
            "POST",
            "/feedback",
            lambda: {"query": "a " * 100_000, "relevant": [f"{n}" for n in range(100)]},
        ),
        Request(
            "POST",
            "/feedback",
            lambda: {
                "query": "a",
                "hits": [f"{n}" for n in range(1_000)],
                "relevant": [f"{n}" for n in range(100)],
            },
        ),
    ],
    "PUT /documents": [Request("PUT", "/documents", documents)],
    "GET /documents/{id}": [Request("GET", "/documents/1")],
    "DELETE /documents/{id}": [Request("DELETE", "/documents/1")],
    "POST /admin/reload": [Request("POST", "/admin/reload", lambda: {"bundle": "/" + "x" * 4_000})],
    **{
        f"GET {path}": [Request("GET", path)]
        for path in (
            "/", "/v1/models", "/v1/models/{model}", "/models", "/health", "/ready", "/info", "/monitor", "/metrics",
            "/monitor/ui", "/monitor/ui/{file}", "/openapi.json",
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """CPU seconds of the server, and MiB that it held more than before."""

    status: int
    cpu: float
    mib: float
    wall: float


@dataclass(frozen=True)
class Server:
    live: Live
    client: httpx.Client

    def cost(self, request: Request, allowed: float) -> Cost:
        """Send it, and wait until the server has put all work for it away."""
        process = psutil.Process(self.live.process.pid)
        content = None if request.body is None else json.dumps(request.body()).encode()
        assert content is None or len(content) <= BODY
        key = {"authorization": f"Bearer {KEY}", "x-request-timeout-ms": str(int(1_000 * allowed))}
        self.until_idle()
        memory, before, began = _reset_peak(process), _cpu(process), time.perf_counter()
        answer = self.client.request(request.method, request.path, content=content, headers=key)
        wall = time.perf_counter() - began
        self.until_idle()
        return Cost(answer.status_code, _cpu(process) - before, (_peak(process) - memory) / MIB, wall)

    def until_idle(self) -> None:
        """A permit is held until the last thread has stopped."""
        ended = time.monotonic() + SECONDS
        while re.search(r"^embedship_permits_in_use 0\.0$", self.client.get("/metrics").text, re.M) is None:
            assert time.monotonic() < ended, "the server goes on working"


def _cpu(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def _reset_peak(process: psutil.Process) -> int:
    """Let the kernel count the peak anew; return the memory in use now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return int(process.memory_info().rss)


def _peak(process: psutil.Process) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    assert found
    return 1024 * int(found[1])


def index(bundle: Bundle, folder: Path) -> Path:
    """An index of random vectors; every document has the words that a keyword search asks for."""
    folder.mkdir()
    draw, vectors = random.Random(0), np.random.default_rng(0)
    rows = vectors.standard_normal((DOCUMENT_COUNT, bundle.manifest.pipeline.dimension), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lines = (
        Document(
            str(n),
            " ".join(f"w{int(70 * draw.random() ** 2)}" for _ in range(60)),
            None,
            {"tag": f"t{n % 300}", **{f"f{field}": n % 60 for field in range(63)}},
        )
        for n in range(DOCUMENT_COUNT)
    )
    store.write(folder / DOCUMENTS, enumerate(lines))
    embedded = EmbeddingInfo(variant_choice.variant(bundle).name, DOCUMENT_COUNT, False, None, TruncatedTexts())
    truth = ExactVectors.write(folder, [rows], rows.shape)
    build.finish(folder, truth, bundle, embedded, IndexOptions(), None, lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def server(bundle: Path, rerank_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("worst")
    (folder / "keys").write_text(KEY)
    made = index(Bundle.open(bundle), folder / "index")
    options = ["--index", str(made), "--reranker", str(rerank_bundle), "--writable"]
    for kind in ("write", "admin"):
        options += [f"--{kind}-key-file", str(folder / "keys")]
    with launched(str(bundle), *options) as live, httpx.Client(base_url=live.url, timeout=SECONDS) as client:
        yield Server(live, client)


@dataclass(frozen=True)
class Bound:
    """CPU seconds after the timeout of a request, and MiB, that the table promises."""

    cpu: float
    mib: float


def table() -> dict[str, Bound]:
    """The bounds of docs/threat-model.md, by route."""
    page = (ROOT / "docs" / "threat-model.md").read_text()
    section = page.partition("## What a request costs")[2].partition("\n## ")[0]
    bounds = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            routes, _, cpu, _, mib, _ = (cell.strip() for cell in line.strip("|").split("|"))
            for route in re.findall(r"`([^`]+)`", routes):
                assert route not in bounds
                bounds[route] = Bound(float(cpu), float(mib))
    return bounds


def test_every_route_has_its_bounds_and_a_request_that_tries_them(server: Server) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert routes <= REQUESTS.keys()
    assert table().keys() == REQUESTS.keys()


@pytest.mark.parametrize("route", REQUESTS)
def test_the_most_expensive_request_keeps_to_its_bounds(server: Server, route: str) -> None:
    """504 is an answer too: nearly all of them are interrupted. CPU time does not depend on what else runs."""
    bound = table()[route]
    for request in REQUESTS[route]:
        cost = server.cost(request, ALLOWED_SECONDS)
        print(route, cost)
        assert cost.status != 413, "it is not the largest legal one"
        assert cost.status < 500 or cost.status == 504
        assert cost.cpu <= ALLOWED_SECONDS * (os.cpu_count() or 1) + bound.cpu
        assert cost.mib <= bound.mib
