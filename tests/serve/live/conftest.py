"""A small index of real text, and vectors of more of it, computed once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from embedship import stdlib_docs
from embedship.bundle import Bundle
from embedship.codes import Vectors
from embedship.encoder import Encoder
from embedship.serve.documents import store as stored
from embedship.serve.documents.changes import DeleteDocument, PutDocument
from embedship.serve.documents.chunking import Chunking
from embedship.serve.documents.store import Document, Split
from embedship.serve.index import IndexKind, kinds, manifest
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import IndexManifest
from embedship.serve.indexing.build import IndexOptions, build
from embedship.serve.live.index import MutableIndex

from . import writer

DOCUMENTS = 60
TEXTS = 240
KINDS = (
    IndexKind.FLAT,
    IndexKind.BINARY,
    IndexKind.HNSW_SQ8,
)  # one each that scans vectors, scans codes, walks a graph


class World(NamedTuple):
    """An index of the first DOCUMENTS texts by kind, and texts that a document may get instead."""

    bundle: Bundle
    folders: dict[IndexKind, Path]
    texts: list[str]
    vectors: Vectors  # of the texts

    def document(self, id: str, text: int) -> Document:
        return Document(id, self.texts[text], f"title {text}", {"n": text, "tag": ["even", "odd"][text % 2]})

    def put(self, id: str, text: int) -> PutDocument:
        document = self.document(id, text)
        return PutDocument(document, [document], self.vectors[[text]])


@pytest.fixture(scope="session")
def world(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    texts = [f"{entry.summary} {entry.body[:200]}" for entry in stdlib_docs.entries(TEXTS)]
    with Encoder.open(bundle) as encoder:
        world = World(encoder.bundle, {kind: folder / kind for kind in KINDS}, texts, encoder.encode(texts))
        corpus = [world.document(f"d{n}", n) for n in range(DOCUMENTS)]
        lines = folder / "corpus.jsonl"
        lines.write_text("".join(json.dumps(row) + "\n" for row in msgspec.to_builtins(corpus)))
        for kind, path in world.folders.items():
            built = folder / f"built-{kind}"
            build(encoder, encoder.variant.name, lines, built, IndexOptions(kind=kind), lambda *_: None)
            scratch(path, corpus, world, built)
    return world


def scratch(
    out: Path,
    wanted: list[Document],
    world: World,
    like: Path,
    split: Split | None = None,
    described: IndexManifest | None = None,
) -> Path:
    """An index built anew, of vectors that are known: those of a text differ a little from batch to batch.

    It is built as `described`, else as the index `like`.
    """
    chunks = [chunk for chunks in split(wanted) for chunk in chunks] if split else wanted
    out.mkdir()
    before = described or manifest.read(like)
    stored.write(out / stored.DOCUMENTS, enumerate(wanted, 1), split)
    rows = world.vectors[[writer.text(chunk) for chunk in chunks]]
    truth = ExactVectors.write(out, [rows], rows.shape)
    kinds.write(out, truth, before.recipe, before.packing, before.effort)
    chunking = Chunking(tokens=20) if split else None
    described = msgspec.structs.replace(before, size=len(rows), documents=len(wanted), chunking=chunking)
    manifest.write(out, described)
    return out


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> IndexKind:
    return IndexKind(request.param)


@pytest.fixture
def index(world: World, kind: IndexKind, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(world.folders[kind], tmp_path / "index"))


@pytest.fixture
def flat(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.folders[IndexKind.FLAT], tmp_path / "index"))


def lined(texts: list[int], id: str) -> Document:
    """A document of these texts' vectors, a line and so a chunk each."""
    return Document(id, "\n".join(f"word{text} of0x0" for text in texts), None, {"n": texts[0]})


def cut_start() -> dict[str, Document]:
    """What `cut` holds: two chunks a document."""
    return {f"d{n}": lined([n, n + 100], f"d{n}") for n in range(DOCUMENTS)}


@pytest.fixture
def cut(world: World, tmp_path: Path) -> Path:
    """A flat index of chunks."""
    return scratch(tmp_path / "cut", list(cut_start().values()), world, world.folders[IndexKind.FLAT], writer.lines)


@pytest.fixture
def live(world: World, index: Path) -> Iterator[MutableIndex]:
    with MutableIndex.open(index, world.bundle, writable=True) as opened:
        yield opened


def documents(live: MutableIndex) -> dict[str, Document]:
    """All that it holds, by id."""
    with live.moment() as now:
        rows = now.documents.rows([*(f"d{n}" for n in range(400)), "new"])
        return now.documents.full_texts(sorted(rows, key=rows.__getitem__))


def nearest(live: MutableIndex, vectors: Vectors, k: int = 10) -> list[list[str]]:
    """Ids of the hits of each vector, best first."""
    with live.moment() as now:
        rows = now.index.search(vectors, k).rows
        return [[d.id for d in now.documents.fetch(row[row >= 0].tolist())] for row in rows]


def seeded(world: World, seed: int, count: int) -> list[PutDocument | DeleteDocument]:
    """Changes to a hundred documents, the same for each seed; no two documents ever have one text, and so one score."""
    random = np.random.default_rng(seed)
    numbers, kinds = (random.integers(0, most, count).tolist() for most in (100, 10))
    return [
        DeleteDocument(f"d{number}")
        if kind < 4
        else world.put(f"d{number}", number + (60 if kind < 7 or number >= 80 else 160))
        for number, kind in zip(numbers, kinds, strict=True)
    ]


def after(state: dict[str, Document], changes: list[PutDocument | DeleteDocument]) -> dict[str, Document]:
    """What documents there are then, in the order in which their ids came."""
    state = dict(state)
    for change in changes:
        if isinstance(change, DeleteDocument):
            state.pop(change.id, None)
        else:
            state[change.document.id] = change.document
    return state
