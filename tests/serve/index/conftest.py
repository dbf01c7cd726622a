from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from embedship import stdlib_docs
from embedship.codes import Int8Scale, Vectors, normalise
from embedship.encoder import Encoder
from embedship.serve.index import Index, IndexKind, kinds, recipe
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.manifest import QuantisationParams
from embedship.serve.index.recipe import IndexSpec, RerankStore
from embedship.serve.indexing.build import IndexOptions


class Texts(NamedTuple):
    """Vectors of real text."""

    documents: Vectors  # summary lines of the standard library
    queries: Vectors  # bodies of some of them


Make = Callable[..., Index]
Corpus = Callable[..., Path]


@pytest.fixture(scope="session")
def encoder(bundle: Path) -> Iterator[Encoder]:
    with Encoder.open(bundle) as encoder:
        yield encoder


@pytest.fixture(scope="session")
def entries() -> list[stdlib_docs.DocEntry]:
    """Texts are read once, because parsing the standard library takes a second."""
    return stdlib_docs.entries(1500)


@pytest.fixture(scope="session")
def texts(encoder: Encoder, entries: list[stdlib_docs.DocEntry]) -> Texts:
    return Texts(encoder.encode([e.summary for e in entries]), encoder.encode([e.body[:300] for e in entries[::15]]))


@pytest.fixture(scope="session")
def clustered() -> Vectors:
    """Seeded vectors around 100 centres; enough of them to span several blocks of the exact search."""
    random = np.random.default_rng(7)
    centres = random.normal(size=(100, 64))
    return normalise((centres[random.integers(0, 100, 9000)] + random.normal(size=(9000, 64))).astype(np.float32))


# The last one is a factory string with a learned rotation, so search parameters must be passed through it.
FACTORY = "PCAR32,IVF4,SQ8"
FACTORY_OF_FEW = "HNSW8,SQ8"


@pytest.fixture(params=list(IndexKind))
def kind(request: pytest.FixtureRequest) -> IndexKind:
    return IndexKind(request.param)


@pytest.fixture(scope="session")
def made() -> dict[object, Index]:
    """All indexes that were built. Tests only read them."""
    return {}


@pytest.fixture
def make(tmp_path: Path, kind: IndexKind, made: dict[object, Index]) -> Make:
    """Build an index of `kind` over vectors, or return the one built before."""

    def make(vectors: Vectors, *, effort: SearchEffort | None = None, store: RerankStore = RerankStore.INT8) -> Index:
        key = kind, hashlib.sha256(vectors.tobytes()).digest(), effort, store
        if key not in made:
            made[key] = new(vectors, effort, store)
        return made[key]

    def new(vectors: Vectors, effort: SearchEffort | None, store: RerankStore) -> Index:
        truth = ExactVectors.write(tmp_path, [vectors], (len(vectors), vectors.shape[1]))
        planned = planned_for(kind, len(vectors), vectors.shape[1], store)
        return kinds.write(tmp_path, truth, planned, packed(planned, truth), kinds.effort(planned, effort))

    return make


def planned_for(kind: IndexKind, size: int, dimension: int, store: RerankStore = RerankStore.INT8) -> IndexSpec:
    if kind is not IndexKind.FACTORY:
        return recipe.make_recipe(kind, size, dimension, store)
    return IndexSpec(kind=kind, factory=FACTORY if size > 200 else FACTORY_OF_FEW, dimension=dimension, store=store)


def options_for(kind: IndexKind) -> IndexOptions:
    return IndexOptions(factory=FACTORY_OF_FEW) if kind is IndexKind.FACTORY else IndexOptions(kind=kind)


def packed(planned: IndexSpec, truth: ExactVectors) -> QuantisationParams:
    """int8 ranges of a hundred of the vectors, as in a bundle."""
    sample = truth.rows(np.arange(0, truth.size, max(1, truth.size // 100)))
    return QuantisationParams(
        scale=Int8Scale.fit(sample) if planned.store is RerankStore.INT8 else None,
        threshold=0.0 if planned.kind is IndexKind.BINARY else None,
    )


@pytest.fixture
def corpus(tmp_path: Path, entries: list[stdlib_docs.DocEntry]) -> Corpus:
    """Write a corpus of n real documents, or of the given lines."""

    def corpus(documents: int = 24, *, lines: bytes | None = None) -> Path:
        rows = (
            {"id": e.id, "text": e.body[:200], "title": e.summary, "metadata": {"n": 1}} for e in entries[:documents]
        )
        path = tmp_path / "corpus.jsonl"
        path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() if lines is None else lines)
        return path

    return corpus
