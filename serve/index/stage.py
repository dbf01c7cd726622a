"""First stages: a rough order of all rows, from which the candidates come that are ranked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from embedship.codes import Vectors, binary, truncate_dimensions
from embedship.errors import EmbedshipError, UnsafeError
from embedship.serve.documents.filters import Allowed
from embedship.serve.index import factory, faiss_library
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors
from embedship.serve.index.faiss_library import faiss, untyped
from embedship.serve.index.gpu import GpuResources
from embedship.serve.index.manifest import STAGE
from embedship.serve.index.recipe import IndexSpec

Rows = NDArray[np.int64]  # (n, candidates), -1 where fewer were found

# What FAISS is trained on, evenly spaced.
_TRAINING_ROWS, _TRAINING_ROWS_PER_LIST = 65_536, 64
# Fewer rows are repeated: product quantisation refuses to place 16 centres among fewer than 16 rows, and warns below 39
# for each. So are those that are fewer than the lists, as after a compaction that left few: FAISS refuses them, too.
_LEAST_TRAINING = 16 * 39

# Nodes kept open while a row is linked: the graph is built once and searched for long. In one run on sentences of
# MedQuAD (machine loaded, not kept) recall@10 rose clearly from FAISS's 40 to 100, and a little more to 200.
EF_CONSTRUCTION = 200

# Rounds of k-means for 16 centres: FAISS's 25 took longer and found no more in the same run.
PQ_ROUNDS = 10

# A stage that cannot be given a mask is asked for so many times the candidates that would be allowed by chance, and
# again for more while it finds too few: what a filter allows is often of one topic, and lies together.
_MARGIN = 2


class CandidateGenerator(Protocol):
    """Thread-safe."""

    def candidates(self, queries: Vectors, wanted: int, effort: SearchEffort, allowed: Allowed | None) -> Rows:
        """Return `wanted` rows for each of the (n, dim) queries, in no order, among the rows that are allowed."""


class BinaryCandidates:
    """Sign bits and Hamming distance: faiss.IndexBinaryFlat, dim / 8 bytes a vector."""

    def __init__(self, bits: Any, dimension: int, threshold: float) -> None:
        self._bits = bits
        self._dimension = dimension
        self._threshold = threshold

    @classmethod
    def write(cls, folder: Path, truth: ExactVectors, recipe: IndexSpec, threshold: float) -> Self:
        bits = faiss.IndexBinaryFlat(recipe.dimension)
        for _, block in truth.blocks():
            bits.add(binary(truncate_dimensions(block, recipe.dimension), threshold))
        faiss_library.save(faiss.write_index_binary, bits, folder / STAGE)
        return cls(bits, recipe.dimension, threshold)

    @classmethod
    def open(cls, folder: Path, size: int, recipe: IndexSpec, threshold: float) -> Self:
        shape = (size, recipe.dimension)
        bits = faiss_library.load(faiss.read_index_binary, folder / STAGE, (faiss.IndexBinaryFlat,), shape)
        return cls(bits, recipe.dimension, threshold)

    def candidates(self, queries: Vectors, wanted: int, effort: SearchEffort, allowed: Allowed | None) -> Rows:
        coded = binary(truncate_dimensions(queries, self._dimension), self._threshold)
        return np.asarray(self._bits.search(coded, wanted, params=faiss_library.selected(allowed))[1])


class FaissCandidates:
    """Any float index of factory.py."""

    def __init__(self, index: Any, dimension: int) -> None:
        self._index = index
        self._dimension = dimension
        self._core = factory.core(index)
        self._lists = factory.is_lists(index)
        self._graph = factory.is_graph(index)
        self._masks = type(self._core).__name__ not in factory.UNMASKED

    @classmethod
    def write(cls, folder: Path, truth: ExactVectors, recipe: IndexSpec, gpu: GpuResources | None = None) -> Self:
        """Raises UsageError, EmbedshipError where FAISS cannot be trained on so few rows, OSError."""
        index = factory.make(recipe.factory, recipe.dimension)
        faiss_library.on_all_threads()
        if gpu and factory.is_float_graph(index):
            index = gpu.graph(truncate_dimensions(truth.rows(np.arange(truth.size)), recipe.dimension), index)
        else:
            try:
                fill(index, truth, recipe.dimension, gpu)
            except RuntimeError as error:
                raise EmbedshipError(
                    f"FAISS cannot build {recipe.factory} of {truth.size:,} rows ({faiss_library.cause(error)}): "
                    "take another kind or factory"
                ) from None
        faiss_library.save(faiss.write_index, index, folder / STAGE)
        return cls(index, recipe.dimension)

    @classmethod
    def open(cls, folder: Path, size: int, recipe: IndexSpec) -> Self:
        expected = factory.make(recipe.factory, recipe.dimension)
        index = faiss_library.load(faiss.read_index, folder / STAGE, factory.kinds(expected), (size, recipe.dimension))
        if type(factory.core(index)) not in factory.kinds(factory.core(expected)):
            raise UnsafeError(f"{folder / STAGE} holds another index than {recipe.factory}")
        return cls(index, recipe.dimension)

    def candidates(self, queries: Vectors, wanted: int, effort: SearchEffort, allowed: Allowed | None) -> Rows:
        queries = truncate_dimensions(queries, self._dimension)
        if allowed is not None and not self._masks:
            return self._sifted(queries, wanted, allowed)
        return np.asarray(self._index.search(queries, wanted, params=self._parameters(wanted, effort, allowed))[1])

    def _sifted(self, queries: Vectors, wanted: int, allowed: Allowed) -> Rows:
        """What is allowed among more than was wanted."""
        asked = int(wanted / max(float(allowed.mean()), 1 / len(allowed)) * _MARGIN)
        while True:
            asked = min(asked, len(allowed))
            rows = np.asarray(self._index.search(queries, asked)[1])
            allows = (rows >= 0) & allowed[rows]
            if asked == len(allowed) or not len(rows) or int(allows.sum(axis=1).min()) >= wanted:
                break
            asked *= 4
        # FAISS gives the nearest first: a stable sort keeps the nearest of those allowed.
        first = np.argsort(~allows, axis=1, kind="stable")[:, :wanted]
        return np.where(np.take_along_axis(allows, first, axis=1), np.take_along_axis(rows, first, axis=1), -1)

    def _parameters(self, wanted: int, effort: SearchEffort, allowed: Allowed | None) -> Any:
        """Of a mask that allows one row in ten, ten times as much must be looked at to find as many."""
        selector = None if allowed is None else faiss_library.selector(allowed)
        times = 1.0 if allowed is None else 1 / max(float(allowed.mean()), 1 / len(allowed))
        given: Any
        if self._lists:
            assert effort.nprobe is not None, "an inverted file has this knob"
            nprobe = min(self._core.nlist, int(effort.nprobe * times))
            given = untyped.SearchParametersIVF(nprobe=nprobe, sel=selector)
        elif self._graph:
            assert effort.ef_search is not None, "a graph has this knob"
            ef = min(self._core.ntotal, int(max(effort.ef_search, wanted) * times))
            given = untyped.SearchParametersHNSW(efSearch=ef, sel=selector)
        else:
            given = None if selector is None else untyped.SearchParameters(sel=selector)
        return self._wrapped(given)

    def _wrapped(self, given: Any) -> Any:
        if given is None or not isinstance(self._index, faiss.IndexPreTransform):
            return given
        return untyped.SearchParametersPreTransform(index_params=given)


def fill(index: Any, truth: ExactVectors, dimension: int, gpu: GpuResources | None = None) -> None:
    """Train on a spread of the rows, then add them all, in their order."""
    core = factory.core(index)
    if factory.is_graph(index):
        core.hnsw.efConstruction = EF_CONSTRUCTION
    if isinstance(core, faiss.IndexPQFastScan | faiss.IndexIVFPQFastScan):
        core.pq.cp.niter = PQ_ROUNDS
    if not index.is_trained:
        lists = core.nlist if factory.is_lists(index) else 0
        most = max(_TRAINING_ROWS, _TRAINING_ROWS_PER_LIST * lists)
        chosen = np.linspace(0, truth.size - 1, min(truth.size, most)).astype(np.int64)
        rows = truncate_dimensions(truth.rows(np.resize(chosen, max(len(chosen), _LEAST_TRAINING, lists))), dimension)
        gpu.train_lists(index, rows) if gpu and factory.is_lists(index) else index.train(rows)
    for _, block in truth.blocks():
        index.add(truncate_dimensions(block, dimension))
