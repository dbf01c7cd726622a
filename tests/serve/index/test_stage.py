"""First stages of few rows: FAISS wants as many to train on as it has lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedship.codes import normalise
from embedship.errors import EmbedshipError, UnsafeError
from embedship.serve.index import IndexKind
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.faiss_library import faiss
from embedship.serve.index.manifest import STAGE
from embedship.serve.index.recipe import IndexSpec, RerankStore
from embedship.serve.index.stage import FaissCandidates

DIMENSION = 48


def truth(folder: Path, size: int) -> ExactVectors:
    rows = normalise(np.random.default_rng(size).standard_normal((size, DIMENSION), dtype=np.float32))
    return ExactVectors.write(folder, [rows], rows.shape)


def recipe(factory: str) -> IndexSpec:
    return IndexSpec(kind=IndexKind.FACTORY, factory=factory, dimension=DIMENSION, store=RerankStore.FLOAT16)


@pytest.mark.parametrize("size", [1, 700])
@pytest.mark.parametrize("factory", ["IVF1024,SQ8", "OPQ12,IVF1024,PQ12x4fs", "IVF1024,RaBitQ", "IVF700,Flat"])
def test_fewer_rows_than_lists(tmp_path: Path, size: int, factory: str) -> None:
    rows = truth(tmp_path, size)
    FaissCandidates.write(tmp_path, rows, recipe(factory))
    stage = FaissCandidates.open(tmp_path, size, recipe(factory))
    found = stage.candidates(rows.rows(np.arange(size)), min(size, 20), SearchEffort(nprobe=1024), None)
    assert all(row in found[row] for row in range(size))


def test_what_faiss_refuses_is_a_sentence(tmp_path: Path) -> None:
    """4,096 centres among 700 rows."""
    with pytest.raises(EmbedshipError, match=r"FAISS cannot build IVF4,PQ12x12 of 700 rows \(.*\): take another kind"):
        FaissCandidates.write(tmp_path, truth(tmp_path, 700), recipe("IVF4,PQ12x12"))


@pytest.mark.parametrize("factory", ["IVF4,Flat", "OPQ12,IVF4,RaBitQ"])
def test_inverted_lists_in_another_file_are_refused(tmp_path: Path, factory: str) -> None:
    """They name any file of the system, which nobody hashed and FAISS would map writable."""
    rows, outside = truth(tmp_path, 700), tmp_path / "outside"
    FaissCandidates.write(tmp_path, rows, recipe(factory))
    index = faiss.read_index(str(tmp_path / STAGE))
    ivf = faiss.extract_index_ivf(index)
    lists = faiss.OnDiskInvertedLists(ivf.nlist, ivf.code_size, str(outside))
    pointers = faiss.InvertedListsPtrVector()
    pointers.push_back(ivf.invlists)
    lists.merge_from_multiple(pointers.data(), pointers.size())
    ivf.replace_invlists(lists)
    lists.this.disown()
    faiss.write_index(index, str(tmp_path / STAGE))
    before = outside.read_bytes()
    with pytest.raises(UnsafeError, match=r"OnDiskInvertedLists.*never hashed"):
        FaissCandidates.open(tmp_path, 700, recipe(factory))
    assert outside.read_bytes() == before
