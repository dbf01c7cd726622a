"""Milvus Lite, a real engine, in a process of its own, which speaks what Milvus speaks over TCP."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.serve.index import Index, IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.recipe import RerankStore
from embedship.serve.live.changes import to_half_precision
from embedship.serve.milvus import collection_metadata as cards
from embedship.serve.milvus.connection import SLOW_SECONDS, MilvusConnection
from embedship.serve.milvus.index import MilvusIndex
from embedship.serve.search.address import Address

from ..index.conftest import Make, Texts, clustered, encoder, entries, texts  # noqa: F401 - fixtures

KINDS = (IndexKind.FLAT, IndexKind.HNSW_SQ8)

_SERVER = """
import sys
from milvus_lite.adapter.grpc.server import start_server_in_thread
server, db, port = start_server_in_thread(sys.argv[1])
print(port, flush=True)
sys.stdin.read()  # until who started it ends it, or itself
server.stop(0).wait()
db.close()
"""


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The port of a server over this folder."""
    command = [sys.executable, "-c", _SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(30)


@pytest.fixture(scope="session")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("milvus") / "data") as port:
        MilvusConnection.open(
            Address(f"http://127.0.0.1:{port}", "any"), SLOW_SECONDS
        ).close()  # its first answer takes a while
        yield port


@pytest.fixture(scope="session")
def at(port: int) -> Callable[[str], Address]:
    return lambda collection: Address(f"http://127.0.0.1:{port}", collection)


@pytest.fixture(scope="session")
def line(at: Callable[[str], Address]) -> Iterator[MilvusConnection]:
    line = MilvusConnection.open(at("any"), SLOW_SECONDS)
    yield line
    line.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> IndexKind:
    if request.param not in KINDS:
        pytest.skip(f"a collection is not {request.param}")
    return IndexKind(request.param)


@pytest.fixture(scope="session")
def made() -> dict[object, Index]:
    return {}


@pytest.fixture
def make(bundle: Path, line: MilvusConnection, kind: IndexKind, made: dict[object, Index]) -> Make:
    """A collection of `kind` over vectors, whose numbers are 0, 1, ...; unless it has been made before."""

    def make(vectors: Vectors, *, effort: SearchEffort | None = None, store: RerankStore = RerankStore.INT8) -> Index:
        del store  # candidates are always ranked by the vectors themselves
        key = kind, hashlib.sha256(vectors.tobytes()).hexdigest(), effort
        if key not in made:
            card = cards.card(Bundle.open(bundle), "none", kind, with_title=False, effort=effort)
            made[key] = filled(
                line, f"c{len(made)}", msgspec.structs.replace(card, dimension=vectors.shape[1]), vectors
            )
        return made[key]

    return make


def filled(
    line: MilvusConnection, name: str, card: cards.CollectionMetadata, vectors: Vectors, order: slice = slice(None)
) -> MilvusIndex:
    """`order`: in which its rows are put."""
    cards.make(line, name, card)
    values = to_half_precision(vectors).astype(np.float32).tolist()
    nothing = {"content": "", "title_length": -1, "metadata": "{}", "facts": [], "scalars": {}}
    rows = [
        {"row": row, "id": str(row), **nothing, **dict.fromkeys(card.fields, value)} for row, value in enumerate(values)
    ]
    rows = rows[order]
    for start in range(0, len(rows), 3000):
        line.call("upsert", name, rows[start : start + 3000])
    line.call("flush", name)
    return MilvusIndex(line.call, line.call, name, card)
