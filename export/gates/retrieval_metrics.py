"""Retrieval metrics on the user's own questions, for each way to compute and store vectors.

The definitions are those of sentence-transformers' InformationRetrievalEvaluator: binary relevance, questions without a
relevant document are left out, and ties are ranked by document id. accuracy@k is the hit rate: the share of questions
with a relevant document among the first k. Only one variant's vectors and one block of scores are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from embedship import codes as packing
from embedship import ranking
from embedship.bundle import ModelSpec, RetrievalResult, Similarity, VectorCode, VectorCodes
from embedship.codes import Vectors, normalise, truncate_dimensions
from embedship.encoder import Encoder
from embedship.errors import EngineError
from embedship.export.gates.dataset import RetrievalDataset

KS = (1, 3, 5, 10)
DEPTH = 100
# A tile of scores takes 256 x 4,096 x 4 bytes = 4 MB, and three times that with its row numbers.
_QUERIES, _DOCUMENTS = 256, 4096
_GATHERED_BYTES = 64 * 2**20

Encode = Callable[[Sequence[str]], Vectors]
Advance = Callable[[int], object]  # called with the number of texts that have just been finished
Rows = NDArray[np.int64]  # (n, k) document rows, best first


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDataset:
    """A dataset encoded by one variant (or by the "checkpoint"): (n, dim) float32 vectors at full dimension."""

    variant: str
    documents: Vectors
    queries: Vectors

    @classmethod
    def make(
        cls, variant: str, data: RetrievalDataset, documents: Encode, queries: Encode, pipeline: ModelSpec
    ) -> EncodedDataset:
        """Encode a dataset. Vectors get unit length unless the model uses the inner product.

        Raises EngineError if a vector has NaN or infinity.
        """
        dot = pipeline.similarity is Similarity.DOT
        encoded = (documents(data.documents), queries(data.queries))
        if not all(np.isfinite(vectors).all() for vectors in encoded):
            raise EngineError(f"{variant} gives NaN or infinity for a text of {data.name}")
        return cls(variant, *(vectors if dot else normalise(vectors) for vectors in encoded))

    def cut(self, dimension: int) -> EncodedDataset:
        return EncodedDataset(
            self.variant, truncate_dimensions(self.documents, dimension), truncate_dimensions(self.queries, dimension)
        )

    @property
    def dimension(self) -> int:
        return int(self.documents.shape[1])


@dataclass(frozen=True, slots=True)
class VectorStorage:
    """A vector code, and whether int8 codes rescore its candidates."""

    code: VectorCode
    rescored: bool = False

    def __str__(self) -> str:
        return f"{self.code}+int8" if self.rescored else str(self.code)


PLAIN = VectorStorage(VectorCode.FLOAT32)


def storage(row: RetrievalResult) -> VectorStorage:
    return VectorStorage(row.code, row.rescored)


STORAGES = (
    PLAIN,
    *map(VectorStorage, (VectorCode.FLOAT16, VectorCode.INT8, VectorCode.UBINARY)),
    VectorStorage(VectorCode.UBINARY, rescored=True),
)


def encode_functions(encoder: Encoder, progress: Advance | None = None) -> tuple[Encode, Encode]:
    """Return the functions that encode documents and queries, with the prompts that sentence-transformers selects."""
    pipeline = encoder.bundle.manifest.pipeline
    documents, queries = (
        partial(encoder.encode, prompt_name=name, progress=progress)
        for name in (pipeline.document_prompt, pipeline.query_prompt)
    )
    return documents, queries


def drop(before: RetrievalResult, after: RetrievalResult) -> float:
    """Return the decrease of recall@10."""
    return before.metrics["recall@10"] - after.metrics["recall@10"]


def grid(
    data: RetrievalDataset,
    encoded: EncodedDataset,
    dimensions: Sequence[int],
    storages: Sequence[VectorStorage],
    codes: VectorCodes,
) -> Iterator[RetrievalResult]:
    """Measure every dimension and storage, largest dimension first. Binary codes need dimensions divisible by 8."""
    for dimension in sorted(dimensions, reverse=True):
        shorter = encoded.cut(dimension)
        for storage in storages:
            if storage.code is not VectorCode.UBINARY or dimension % 8 == 0:
                yield measure(data, shorter, storage, codes)


def measure(
    data: RetrievalDataset, encoded: EncodedDataset, storage: VectorStorage, codes: VectorCodes | None = None
) -> RetrievalResult:
    """Search all questions and average each metric. `codes` are needed except for float32 and float16.

    With rescoring, a search for k results ranks `codes.rescore` x k candidates again, as the server does.
    """
    if storage.rescored:
        top_hits, deep_hits = (rescored(encoded, codes, k) for k in (max(KS), DEPTH))
    else:
        top_hits = deep_hits = nearest(*stored(encoded, storage.code, codes), DEPTH)
    return RetrievalResult(
        variant=encoded.variant,
        dimension=encoded.dimension,
        code=storage.code,
        rescored=storage.rescored,
        bytes_per_vector=encoded.dimension * _BITS[storage.code] // 8,
        metrics=mean(metrics(hits(top_hits, data.relevant), hits(deep_hits, data.relevant), _counts(data))),
    )


_BITS = {VectorCode.FLOAT32: 32, VectorCode.FLOAT16: 16, VectorCode.INT8: 8, VectorCode.UBINARY: 1}


def stored(encoded: EncodedDataset, code: VectorCode, codes: VectorCodes | None) -> tuple[Vectors, NDArray[np.generic]]:
    """Return queries and stored documents such that their inner product, after `widened`, is the code's score."""
    documents, queries = encoded.documents, encoded.queries
    if code is VectorCode.FLOAT32:
        return queries, documents
    if code is VectorCode.FLOAT16:
        return queries, packing.to_float16(documents)
    assert codes is not None, "int8 and binary codes are defined by the bundle"
    if code is VectorCode.INT8:
        scale = codes.scale(encoded.dimension)
        return scale.weigh(queries), scale.encode(documents)
    bits = (packing.binary(vectors, codes.binary_threshold) for vectors in (queries, documents))
    query_vectors, stored_bits = bits
    return packing.signs(query_vectors), stored_bits


def widened(block: NDArray[np.generic]) -> Vectors:
    if block.dtype == np.uint8:
        return packing.signs(block.astype(np.uint8, copy=False))
    return block.astype(np.float32, copy=False)


def nearest(queries: Vectors, documents: NDArray[np.generic], k: int) -> Rows:
    """Return the k rows with the largest inner product, best first. Equal scores are ordered by row number."""
    blocks = [_nearest(queries[at : at + _QUERIES], documents, k) for at in range(0, len(queries), _QUERIES)]
    return np.concatenate(blocks)


def _nearest(queries: Vectors, documents: NDArray[np.generic], k: int) -> Rows:
    best = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(documents), _DOCUMENTS):
        block = widened(documents[start : start + _DOCUMENTS])
        packed = ranking.keys(queries @ block.T, np.arange(start, start + len(block)))
        best = ranking.largest(np.concatenate([best, packed], axis=1), k)
    return ranking.hits(best, min(k, len(documents))).rows


def rescored(encoded: EncodedDataset, codes: VectorCodes | None, k: int) -> Rows:
    """Find `codes.rescore` x k candidates by binary codes and rank them by int8 codes, as a binary index does."""
    assert codes is not None
    return rescore_candidates(
        encoded, codes, nearest(*stored(encoded, VectorCode.UBINARY, codes), codes.rescore * k), k
    )


def rescore_candidates(encoded: EncodedDataset, codes: VectorCodes, candidates: Rows, k: int) -> Rows:
    """Return the k best of each query's candidates, by their int8 codes."""
    queries, documents = stored(encoded, VectorCode.INT8, codes)
    step = max(1, _GATHERED_BYTES // (4 * encoded.dimension * candidates.shape[1]))
    best_rows = []
    for at in range(0, len(queries), step):
        rows = candidates[at : at + step]
        scores = np.vecdot(widened(documents[rows]), queries[at : at + step, None, :])
        best_rows.append(ranking.hits(ranking.keys(scores, rows), min(k, rows.shape[1])).rows)
    return np.concatenate(best_rows)


def hits(ranked: Rows, relevant: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return (n, k) flags: True where the ranked document is relevant."""
    return np.stack([np.isin(rows, wanted) for rows, wanted in zip(ranked, relevant, strict=True)])


def _counts(data: RetrievalDataset) -> NDArray[np.int64]:
    return np.array([len(rows) for rows in data.relevant])


def metrics(
    top_hits: NDArray[np.bool_], deep_hits: NDArray[np.bool_], relevant: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return each metric per question, (n,): map@100 from `deep_hits`, (n, 100), the others from `top_hits`.

    `relevant` has the number of relevant documents per question.
    """
    ranks = np.arange(1, DEPTH + 1)
    values: dict[str, NDArray[np.float64]] = {}
    counts = {k: top_hits[:, :k].sum(axis=1) for k in KS}
    values |= {f"accuracy@{k}": (count > 0).astype(float) for k, count in counts.items()}
    values |= {f"precision@{k}": count / k for k, count in counts.items()}
    values |= {f"recall@{k}": count / relevant for k, count in counts.items()}
    top = top_hits[:, : max(KS)]
    width = top.shape[1]
    # Discounted cumulative gain (Järvelin and Kekäläinen 2002).
    gains = 1 / np.log2(ranks + 1)
    ideal = np.cumsum(gains)[np.minimum(relevant, max(KS)) - 1]
    values["ndcg@10"] = top @ gains[:width] / ideal
    values["mrr@10"] = (top / ranks[:width]).max(axis=1)
    width = deep_hits.shape[1]
    precision = np.cumsum(deep_hits, axis=1) / ranks[:width]
    values["map@100"] = (precision * deep_hits).sum(axis=1) / np.minimum(relevant, DEPTH)
    return values


def mean(per_query: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    return {name: round(float(values.mean()), 6) for name, values in per_query.items()}
