"""Every vector in memory, every one compared: exact, and the right choice for small corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from embedship import ranking
from embedship.codes import Vectors
from embedship.ranking import Hits
from embedship.serve.index import Allowed, Kind, checked, few, library
from embedship.serve.index.effort import Effort
from embedship.serve.index.library import faiss
from embedship.serve.index.manifest import FLAT
from embedship.serve.index.truth import Truth

# FAISS keeps any of several equal scores at the edge of the k best. Asking for a few more and ranking them again makes
# the answer the same for every batch size, unless more documents than these are duplicates of each other.
_SPARE = 16


class FlatIndex:
    """faiss.IndexFlatIP over the float32 values of the truth, so that it and `exact` see the same numbers."""

    kind = Kind.FLAT

    def __init__(self, vectors: faiss.IndexFlatIP, truth: Truth) -> None:
        self._vectors = vectors
        self._truth = truth
        self.size = truth.size
        self.effort = Effort()

    @classmethod
    def write(cls, folder: Path, truth: Truth) -> Self:
        vectors = faiss.IndexFlatIP(truth.dimension)
        for _, block in truth.blocks():
            vectors.add(block)
        library.save(faiss.write_index, vectors, folder / FLAT)
        return cls(vectors, truth)

    @classmethod
    def open(cls, folder: Path, truth: Truth) -> Self:
        shape = (truth.size, truth.dimension)
        return cls(library.load(faiss.read_index, folder / FLAT, faiss.IndexFlatIP, shape), truth)

    def search(self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: Effort | None = None) -> Hits:
        self.effort.turned(effort)
        if few(checked(allowed, self.size)):
            return self._truth.search(queries, k, allowed)
        queries = ranking.checked(queries, k, self._truth.dimension)
        library.on_this_thread()
        wanted = min(k + _SPARE, self.size if allowed is None else int(np.count_nonzero(allowed)))
        scores, rows = self._vectors.search(queries, wanted, params=library.selected(allowed))
        return ranking.hits(ranking.keys(scores, rows), k)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> Hits:
        return self._truth.search(queries, k, allowed)
