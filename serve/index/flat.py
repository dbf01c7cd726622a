"""Flat index: compares every vector. Exact, and the right choice for small corpora.

It scans the float16 values of the exact vectors without converting them to float32. That is half the bytes, and a
single query is limited by memory bandwidth only. Many queries at once are compared block by block with a matrix product
(exact_vectors.py). In both cases `ExactVectors.rank` ranks the results again, so that ids and order are those of
brute force, with ties in row order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from embedship import ranking
from embedship.codes import Vectors
from embedship.ranking import RankedRows
from embedship.serve.documents.filters import Allowed
from embedship.serve.index import IndexKind, faiss_library, is_selective, validate_mask
from embedship.serve.index.effort import SearchEffort
from embedship.serve.index.exact_vectors import ExactVectors, margin
from embedship.serve.index.faiss_library import faiss
from embedship.serve.index.manifest import STAGE
from embedship.serve.index.recipe import IndexSpec

# Rounding may swap rows at the end of the k best, so this many more rows are fetched and ranked.
_SPARE = 16

# Up to this many queries, one scan per query is faster than converting every block to float32 for a matrix product.
_SCANNED = 4


class FlatIndex:
    """faiss.IndexScalarQuantizer in float16 with inner product, in memory, and the mapped exact vectors."""

    kind = IndexKind.FLAT

    def __init__(self, vectors: Any, truth: ExactVectors) -> None:
        self._vectors = vectors
        self._truth = truth
        self.size = truth.size
        self.effort = SearchEffort()

    @classmethod
    def write(cls, folder: Path, truth: ExactVectors, recipe: IndexSpec) -> Self:
        vectors = _make_empty(truth.dimension, recipe)
        for _, block in truth.blocks():
            vectors.add(block)
        faiss_library.save(faiss.write_index, vectors, folder / STAGE)
        return cls(vectors, truth)

    @classmethod
    def open(cls, folder: Path, truth: ExactVectors) -> Self:
        shape = (truth.size, truth.dimension)
        return cls(faiss_library.load(faiss.read_index, folder / STAGE, (faiss.IndexScalarQuantizer,), shape), truth)

    def search(
        self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: SearchEffort | None = None
    ) -> RankedRows:
        self.effort.overridden_by(effort)
        faiss_library.on_this_thread()
        if len(queries) > _SCANNED or is_selective(validate_mask(allowed, self.size)):
            return self._truth.search(queries, k, allowed)
        queries = ranking.validate_queries(queries, k, self._truth.dimension)
        wanted = min(k + _SPARE, self.size if allowed is None else int(np.count_nonzero(allowed)))
        scores, rows = self._vectors.search(queries, wanted, params=faiss_library.search_parameters(allowed))
        if wanted > k and (scores[:, k - 1] - scores[:, -1] < margin(self._truth.dimension)).any():
            return self._truth.search(queries, k, allowed)  # there may be more near-equal rows than were fetched
        return ranking.hits(self._truth.rank(queries, rows), k)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        return self._truth.search(queries, k, allowed)


def _make_empty(dimension: int, recipe: IndexSpec) -> Any:
    index = faiss.index_factory(dimension, recipe.factory, faiss.METRIC_INNER_PRODUCT)
    assert type(index) is faiss.IndexScalarQuantizer, recipe
    return index
