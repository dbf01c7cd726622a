"""Servers that compute with the real MiniLM, right or with one fault each, and the reference that judges them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import tokenizers

from embedship.bundle import TOKENIZER, Bundle, Precision, fingerprint
from embedship.serve.audit.audit import ServerAudit
from embedship.serve.audit.reference import ReferenceModel
from embedship.serve.audit.report import AuditReport
from embedship.serve.audit.server import AuditedServer, ServerOptions

Floats = npt.NDArray[np.float32]
QUERY = "Represent this sentence for searching relevant passages: "
LIMIT = 256


class MiniLm:
    """Token vectors of MiniLM, computed without embedship. Each row of token ids is computed once for all tests."""

    def __init__(self, bundle: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.tokenizer = tokenizers.Tokenizer.from_file(str(bundle / TOKENIZER))
        self._session = onnxruntime.InferenceSession(str(bundle / "onnx" / "model.onnx"), options)
        self._known: dict[tuple[int, ...], Floats] = {}

    def hidden(self, ids: Sequence[int]) -> Floats:
        key = tuple(ids)
        if key not in self._known:
            row = np.asarray([ids], dtype=np.int64)
            feed = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
            self._known[key] = self._session.run(["last_hidden_state"], feed)[0][0]
        return self._known[key]


class PlainServer:
    """What a short server around sentence-transformers does. Subclasses plant one fault each."""

    prompt = ""
    largest = 1_000  # texts per request

    def __init__(self, minilm: MiniLm) -> None:
        self.minilm = minilm
        self.index: Callable[[int], list[int]] = lambda count: list(range(count))

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.minilm.tokenizer.encode(self.prompt + text).ids
        return ids if len(ids) <= LIMIT else [*ids[: LIMIT - 1], ids[-1]]

    def pool(self, hidden: Floats) -> Floats:
        return np.asarray(hidden.mean(axis=0))

    def scale(self, vector: Floats) -> Floats:
        return np.asarray(vector / np.linalg.norm(vector))

    def vector(self, text: str) -> Floats:
        return self.scale(self.pool(self.minilm.hidden(self.ids(text))))

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        return [self.vector(text) for text in texts]

    def pack(self, vector: Floats) -> bytes:
        return vector.astype("<f4").tobytes()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        texts = body.get("input", body.get("inputs", body.get("texts")))
        if len(texts) > self.largest:
            return 413, {"error": f"at most {self.largest} texts"}
        rows = self.embed(texts)
        if path in {"/v1/embeddings", "/embeddings"}:
            packed = body["encoding_format"] == "base64"
            shown = [base64.b64encode(self.pack(row)).decode() if packed else row.tolist() for row in rows]
            indexes = self.index(len(rows))
            return 200, {"data": [{"index": i, "embedding": shown[i]} for i in indexes], "model": "minilm"}
        lists = [row.tolist() for row in rows]
        shapes: dict[str, Any] = {
            "/embed": lists,
            "/v2/embed": {"embeddings": {"float": lists}},
            "/api/embed": {"embeddings": lists},
        }
        return (200, shapes[path]) if path in shapes else (404, {"error": "not found"})


@contextmanager
def listening(server: PlainServer, paths: set[str] | None = None) -> Iterator[str]:
    """Serve these paths (None: all) at a free port, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names = {"/v1/models": {"data": [{"id": "minilm"}]}, "/api/tags": {"models": [{"name": "minilm"}]}}
            known = (
                names.get(self.path) if paths is None or "/v1/embeddings" in paths or "/api/embed" in paths else None
            )
            self._send(200 if known else 404, known or {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if paths is not None and self.path not in paths:
                self._send(404, {"error": "not found"})
            else:
                self._send(*server.answer(self.path, body))

        def _send(self, status: int, answer: Any) -> None:
            content = msgspec.json.encode(answer)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # connections at once

    with Server(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def audited(
    reference: ReferenceModel,
    server: PlainServer,
    *,
    api: str | None = None,
    precision: Precision = Precision.INT8,
    prompt_name: str | None = None,
) -> AuditReport:
    with listening(server) as url:
        found = AuditedServer.find(ServerOptions(url, api), reference.bundle.manifest.source.name)
        return ServerAudit(reference, found, precision, prompt_name).run()


@pytest.fixture(scope="session")
def minilm_tokens(bundle: Path) -> MiniLm:
    return MiniLm(bundle)


@pytest.fixture(scope="session")
def reference(bundle: Path) -> Iterator[ReferenceModel]:
    with ReferenceModel.open(bundle) as opened:
        yield opened


@pytest.fixture(scope="session")
def prompted_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a prompt for queries, which is its default."""
    folder = tmp_path_factory.mktemp("prompted") / "bundle"
    whole = Bundle.open(bundle)
    for name in whole.files_of(whole.plain):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((bundle / name).read_bytes())
    manifest = whole.manifest
    model = msgspec.structs.replace(manifest.pipeline, prompts={"query": QUERY, "document": ""}, default_prompt="query")
    sealed = msgspec.structs.replace(
        manifest,
        pipeline=model,
        fingerprint=fingerprint(manifest.source, model, manifest.tokenizer_sha256),
        variants=(whole.plain,),
        choice=msgspec.structs.replace(manifest.choice, variant=whole.plain.name),
    )
    Bundle.write(folder, sealed)
    return folder


@pytest.fixture(scope="session")
def prompted(prompted_bundle: Path) -> Iterator[ReferenceModel]:
    with ReferenceModel.open(prompted_bundle) as opened:
        yield opened
