"""Two stages: Hamming distance of sign bits finds candidates, int8 codes rank them.

The first stage reads dim / 8 bytes a vector instead of 4 x dim. Its order is rough, so it is asked for more than k.
Recall@10 against exact search, MiniLM with 384 dimensions, docstrings as documents, summary lines as queries:

    candidates                 40     100     200     300     400    all (int8 alone: no number exceeds it)
    2,374 documents         0.933   0.985   0.994   0.996   0.996   0.996
    24,374 documents        0.895   0.966   0.985   0.989   0.991   0.994
    scan + ranking, us   91 + 12 116 + 22 134 + 31 165 + 46 198 + 60   (24,374 documents, one query, one thread)

Forty candidates a hit, those of ten hits at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from embedship import ranking
from embedship.codes import Int8Codes, Vectors, binary
from embedship.ranking import Hits
from embedship.serve.index import Allowed, Kind, checked, few, library
from embedship.serve.index.arrays import mapped, write_rows
from embedship.serve.index.effort import Effort
from embedship.serve.index.library import faiss
from embedship.serve.index.manifest import BITS, CODES, Rescoring
from embedship.serve.index.truth import Truth

# What the candidates of one group of queries may take once they are gathered, so that a large batch or a large k
# cannot exhaust memory.
_GATHERED_BYTES = 32 * 2**20


class BinaryIndex:
    """faiss.IndexBinaryFlat in memory, int8 codes mapped."""

    kind = Kind.BINARY

    def __init__(self, bits: faiss.IndexBinaryFlat, codes: Int8Codes, rescoring: Rescoring, truth: Truth) -> None:
        self._bits = bits
        self._codes = codes
        self._rescoring = rescoring
        self._truth = truth
        self.size = truth.size
        self.effort = Effort(oversample=rescoring.oversample)

    @classmethod
    def write(cls, folder: Path, truth: Truth, rescoring: Rescoring) -> Self:
        bits = faiss.IndexBinaryFlat(truth.dimension)
        for _, block in truth.blocks():
            bits.add(binary(block, rescoring.threshold))
        library.save(faiss.write_index_binary, bits, folder / BITS)
        encoded = (rescoring.scale.encode(block) for _, block in truth.blocks())
        write_rows(folder / CODES, encoded, (truth.size, truth.dimension), np.int8)
        return cls.open(folder, truth, rescoring)

    @classmethod
    def open(cls, folder: Path, truth: Truth, rescoring: Rescoring) -> Self:
        shape = (truth.size, truth.dimension)
        bits = library.load(faiss.read_index_binary, folder / BITS, faiss.IndexBinaryFlat, shape)
        return cls(bits, mapped(folder / CODES, shape, np.int8), rescoring, truth)

    def search(self, queries: Vectors, k: int, allowed: Allowed | None = None, effort: Effort | None = None) -> Hits:
        candidates = self.effort.turned(effort).candidates(k)
        if few(checked(allowed, self.size)):
            return self._truth.search(queries, k, allowed)
        queries = ranking.checked(queries, k, self._truth.dimension)
        library.on_this_thread()
        candidates = min(candidates, self.size if allowed is None else int(np.count_nonzero(allowed)))
        parameters = library.selected(allowed)
        best = np.empty((len(queries), min(k, candidates)), dtype=np.int64)
        for group in self._groups(len(queries), candidates):
            best[group] = ranking.largest(self._ranked(queries[group], candidates, parameters), k)
        return ranking.hits(best, k)

    def exact(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> Hits:
        return self._truth.search(queries, k, allowed)

    def _groups(self, queries: int, candidates: int) -> Iterator[slice]:
        step = max(1, _GATHERED_BYTES // (4 * self._truth.dimension * candidates))
        return (slice(start, start + step) for start in range(0, queries, step))

    def _ranked(self, queries: Vectors, candidates: int, parameters: Any) -> ranking.Keys:
        """(n, candidates) keys: one gather, one batched product.

        vecdot and not matmul: as fast, and it never wakes a pool of BLAS threads.
        """
        _, rows = self._bits.search(binary(queries, self._rescoring.threshold), candidates, params=parameters)
        gathered = np.take(self._codes, rows, axis=0).astype(np.float32)  # (n, candidates, dim)
        return ranking.keys(np.vecdot(gathered, self._rescoring.scale.weigh(queries)[:, None, :]), rows)
