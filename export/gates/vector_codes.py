"""Vector codes of a bundle: int8 ranges fitted on the checkpoint's vectors, and measured on other texts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from embedship.bundle import Similarity, VectorCode, VectorCodes
from embedship.codes import Int8Scale, Vectors, normalise, truncate_dimensions
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.gates.retrieval_metrics import EncodedDataset, Rows, nearest, rescore_candidates, stored
from embedship.monitor.recall.rolling import overlap
from embedship.tokens import Text

# Binary codes use the same threshold as sentence-transformers and FAISS.
THRESHOLD = 0.0
# Share of the 10 exact nearest documents that binary candidates with int8 rescoring must find.
_WANTED = 0.99
_MULTIPLIERS = (1, 2, 4, 8, 16, 32, 64)
_K = 10


def fit(checkpoint: EmbedderCheckpoint, texts: Sequence[Text], held_out: Vectors) -> VectorCodes:
    """Fit the int8 ranges on `texts`. Clipping is counted on `held_out`, (n, dim) vectors of other texts.

    The rescoring multiplier is measured later, by `rescoring`.
    """
    pipeline = checkpoint.pipeline
    raw = pipeline.similarity is Similarity.DOT
    vectors, others = (v if raw else normalise(v) for v in (checkpoint.encode(texts), held_out))
    scales = tuple(Int8Scale.fit(truncate_dimensions(vectors, dimension)) for dimension in pipeline.dimensions)
    return VectorCodes(
        int8=scales,
        clipped=round(scales[0].clipped(others), 6),
        binary_threshold=THRESHOLD,
        rescore=1,
        rescored_recall=None,
        documents=0,
    )


def rescoring(codes: VectorCodes, encoded: EncodedDataset) -> VectorCodes:
    """Return the codes with the smallest multiplier that is enough.

    It must find 99% of the 10 exact nearest documents, or as many as int8 alone if that is less.
    """
    if encoded.dimension % 8:
        return codes
    exact = nearest(*stored(encoded, VectorCode.FLOAT32, codes), _K)
    alone = _recall(nearest(*stored(encoded, VectorCode.INT8, codes), _K), exact)
    candidates = nearest(*stored(encoded, VectorCode.UBINARY, codes), _K * max(_MULTIPLIERS))
    for multiplier in _MULTIPLIERS:
        recall = _recall(rescore_candidates(encoded, codes, candidates[:, : _K * multiplier], _K), exact)
        if recall >= min(_WANTED, alone):
            break
    return msgspec.structs.replace(
        codes, rescore=multiplier, rescored_recall=round(recall, 4), documents=len(encoded.documents)
    )


def _recall(rows: Rows, exact: Rows) -> float:
    right, wanted = overlap(rows, exact)
    return float(right.sum() / wanted.sum())
