"""First stages: they rank all rows approximately, and return the candidates that are then re-ranked."""

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

Rows = NDArray[np.int64]  # (n, candidates) row numbers, -1 where fewer were found

# FAISS is trained on at most this many rows, evenly spaced.
_TRAINING_ROWS, _TRAINING_ROWS_PER_LIST = 65_536, 64
# If there are fewer rows than this, they are repeated: product quantisation has 16 centres, so FAISS rejects fewer than
# 16 rows, and warns below 39 rows per centre. Rows are also repeated if there are fewer rows than lists (for example
# after a compaction that left few rows), because FAISS also rejects that.
_LEAST_TRAINING = 16 * 39

# Size of the candidate list while a row is linked into the graph. The graph is built once and searched often. In one
# run on sentences of MedQuAD (loaded machine, results not kept) recall@10 rose clearly from FAISS's default of 40 to
# 100, and a little more to 200.
EF_CONSTRUCTION = 200

# Rounds of k-means for 16 centres: in the same run FAISS's default of 25 took longer and did not improve recall.
PQ_ROUNDS = 10

# If a stage cannot use a mask, more candidates are requested: this many times the number that would be enough if the
# allowed rows were distributed at random. While too few allowed rows are found, the number is increased, because the
# rows that a filter allows are often about one topic, and therefore close together.
_MARGIN = 2


class CandidateGenerator(Protocol):
    """A first stage. Thread-safe."""

    def candidates(self, queries: Vectors, wanted: int, effort: SearchEffort, allowed: Allowed | None) -> Rows:
        """Return `wanted` allowed rows for each of the (n, dim) queries, in no particular order."""


class BinaryCandidates:
    """Sign bits and Hamming distance: faiss.IndexBinaryFlat, dim / 8 bytes per vector."""

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
        return np.asarray(self._bits.search(coded, wanted, params=faiss_library.search_parameters(allowed))[1])


class FaissCandidates:
    """Any float index that factory.py supports."""

    def __init__(self, index: Any, dimension: int) -> None:
        self._index = index
        self._dimension = dimension
        self._core = factory.core(index)
        self._lists = factory.is_lists(index)
        self._graph = factory.is_graph(index)
        self._masks = type(self._core).__name__ not in factory.UNMASKED

    @classmethod
    def write(cls, folder: Path, truth: ExactVectors, recipe: IndexSpec, gpu: GpuResources | None = None) -> Self:
        """Raises UsageError, OSError, and EmbedshipError if FAISS cannot build the index from these rows."""
        index = factory.make(recipe.factory, recipe.dimension)
        faiss_library.on_all_threads()
        if gpu and factory.is_float_graph(index):
            index = gpu.graph(truncate_dimensions(truth.rows(np.arange(truth.size)), recipe.dimension), index)
        else:
            try:
                fill(index, truth, recipe.dimension, gpu)
            except RuntimeError as error:
                raise EmbedshipError(
                    f"FAISS cannot build {recipe.factory} from {truth.size:,} rows ({faiss_library.cause(error)}): "
                    "use another kind or factory"
                ) from None
        faiss_library.save(faiss.write_index, index, folder / STAGE)
        return cls(index, recipe.dimension)

    @classmethod
    def open(cls, folder: Path, size: int, recipe: IndexSpec) -> Self:
        expected = factory.make(recipe.factory, recipe.dimension)
        index = faiss_library.load(faiss.read_index, folder / STAGE, factory.kinds(expected), (size, recipe.dimension))
        if type(factory.core(index)) not in factory.kinds(factory.core(expected)):
            raise UnsafeError(f"{folder / STAGE} is not an index of type {recipe.factory}: build the index again")
        return cls(index, recipe.dimension)

    def candidates(self, queries: Vectors, wanted: int, effort: SearchEffort, allowed: Allowed | None) -> Rows:
        queries = truncate_dimensions(queries, self._dimension)
        if allowed is not None and not self._masks:
            return self._search_and_filter(queries, wanted, allowed)
        return np.asarray(
            self._index.search(queries, wanted, params=self._search_parameters(wanted, effort, allowed))[1]
        )

    def _search_and_filter(self, queries: Vectors, wanted: int, allowed: Allowed) -> Rows:
        """Search for more rows than wanted, and drop those that are not allowed."""
        requested = int(wanted / max(float(allowed.mean()), 1 / len(allowed)) * _MARGIN)
        while True:
            requested = min(requested, len(allowed))
            rows = np.asarray(self._index.search(queries, requested)[1])
            allows = (rows >= 0) & allowed[rows]
            if requested == len(allowed) or not len(rows) or int(allows.sum(axis=1).min()) >= wanted:
                break
            requested *= 4
        # FAISS returns the nearest rows first, so a stable sort keeps the nearest allowed rows.
        first = np.argsort(~allows, axis=1, kind="stable")[:, :wanted]
        return np.where(np.take_along_axis(allows, first, axis=1), np.take_along_axis(rows, first, axis=1), -1)

    def _search_parameters(self, wanted: int, effort: SearchEffort, allowed: Allowed | None) -> Any:
        """With a mask that allows one row in ten, search ten times as many lists or nodes, to find as many rows."""
        selector = None if allowed is None else faiss_library.selector(allowed)
        times = 1.0 if allowed is None else 1 / max(float(allowed.mean()), 1 / len(allowed))
        parameters: Any
        if self._lists:
            assert effort.nprobe is not None, "an inverted file has this setting"
            nprobe = min(self._core.nlist, int(effort.nprobe * times))
            parameters = untyped.SearchParametersIVF(nprobe=nprobe, sel=selector)
        elif self._graph:
            assert effort.ef_search is not None, "a graph has this setting"
            ef = min(self._core.ntotal, int(max(effort.ef_search, wanted) * times))
            parameters = untyped.SearchParametersHNSW(efSearch=ef, sel=selector)
        else:
            parameters = None if selector is None else untyped.SearchParameters(sel=selector)
        return self._wrap(parameters)

    def _wrap(self, parameters: Any) -> Any:
        if parameters is None or not isinstance(self._index, faiss.IndexPreTransform):
            return parameters
        return untyped.SearchParametersPreTransform(index_params=parameters)


def fill(index: Any, truth: ExactVectors, dimension: int, gpu: GpuResources | None = None) -> None:
    """Train the index on evenly spaced rows, then add all rows in their order."""
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
