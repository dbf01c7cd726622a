"""Every vector compared: exact, and the right choice for small corpora.

The values are the float16 of the truth, scanned as they are: half the bytes of float32, and a single query waits for
nothing but memory. Many queries at once are compared block by block with a matrix product (truth.py). Either way what
was found is ranked once more by `Truth.ranked`, so that ids and order are those of brute force, ties by row.
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

# Rounding may swap rows at the edge of the k best: a few more are fetched, and ranked.
_SPARE = 16

# Up to here one scan a query is faster than widening every block for a product.
_SCANNED = 4


class FlatIndex:
    """faiss.IndexScalarQuantizer in float16, by inner product, in memory; the truth, mapped."""

    kind = IndexKind.FLAT

    def __init__(self, vectors: Any, truth: ExactVectors) -> None:
        self._vectors = vectors
        self._truth = truth
        self.size = truth.size
        self.effort = SearchEffort()

    @classmethod
    def write(cls, folder: Path, truth: ExactVectors, recipe: IndexSpec) -> Self:
        vectors = _empty(truth.dimension, recipe)
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
        queries = ranking.checked(queries, k, self._truth.dimension)
        wanted = min(k + _SPARE, self.size if allowed is None else int(np.count_nonzero(allowed)))
        scores, rows = self._vectors.search(queries, wanted, params=faiss_library.selected(allowed))
        if wanted > k and (scores[:, k - 1] - scores[:, -1] < margin(self._truth.dimension)).any():
            return self._truth.search(queries, k, allowed)  # more duplicates than were fetched
        return ranking.hits(self._truth.ranked(queries, rows), k)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> RankedRows:
        return self._truth.search(queries, k, allowed)


def _empty(dimension: int, recipe: IndexSpec) -> Any:
    index = faiss.index_factory(dimension, recipe.factory, faiss.METRIC_INNER_PRODUCT)
    assert type(index) is faiss.IndexScalarQuantizer, recipe
    return index
