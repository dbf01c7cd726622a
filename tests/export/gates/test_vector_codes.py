from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedship import stdlib_docs
from embedship.bundle import Bundle, VectorCodes
from embedship.codes import Int8Scale, normalise, truncate_dimensions
from embedship.errors import UsageError
from embedship.export.checkpoint.embedder import EmbedderCheckpoint
from embedship.export.gates import vector_codes
from embedship.export.gates.retrieval_metrics import EncodedDataset


def unit(n: int, dimension: int = 64, seed: int = 0) -> np.ndarray:
    return normalise(np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32))


def frozen(dimension: int = 64) -> VectorCodes:
    return VectorCodes(
        int8=(Int8Scale.fit(unit(100, dimension)),),
        clipped=0.0,
        binary_threshold=0.0,
        rescore=1,
        rescored_recall=None,
        documents=0,
    )


def test_a_scale_for_every_dimension_fits_vectors_cut_to_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny / "README.md").write_text('"matryoshka_dims": [32, 16, 8]')
    opened = EmbedderCheckpoint.open(tiny)
    (tiny / "README.md").unlink()
    texts = [entry.summary for entry in stdlib_docs.entries(150)]
    vectors = opened.encode(texts)
    codes = vector_codes.fit(opened, texts[:100], vectors[100:])
    assert [scale.dimension for scale in codes.int8] == [32, 16, 8]
    assert codes.clipped <= 0.002
    for scale in codes.int8:
        short = truncate_dimensions(vectors, scale.dimension)
        assert scale.clipped(short) <= 0.002
        back = scale.encode(short) * scale.row
        assert np.abs(back - short)[np.abs(short) < 127 * scale.row].max() <= scale.row.max() / 2 + 1e-6
    wrong = Int8Scale(codes.int8[0].scale[:8])
    assert wrong.clipped(truncate_dimensions(vectors, 8)) > 0.05, (
        "the ranges of the whole vector are too narrow for a cut one"
    )
    with pytest.raises(UsageError, match="no int8 code for 24 dimensions; there is one for 32, 16, 8"):
        codes.scale(24)


def test_the_multiplier_is_the_smallest_that_finds_99_percent() -> None:
    documents, queries = unit(600, seed=1), unit(80, seed=2)
    codes = vector_codes.rescoring(frozen(), EncodedDataset("x", documents, queries))
    assert codes.documents == 600
    assert codes.rescored_recall is not None

    def found(multiplier: int) -> float:
        signs = np.where(queries > 0, 1, -1) @ np.where(documents > 0, 1, -1).T
        candidates = np.argsort(-signs, axis=1, kind="stable")[:, : 10 * multiplier]
        scale = codes.int8[0]
        scores = scale.weigh(queries) @ scale.encode(documents).astype(np.float32).T
        exact = np.argsort(-(queries @ documents.T), axis=1)[:, :10]
        ranked = np.take_along_axis(scores, candidates, axis=1).argsort(axis=1)[:, ::-1][:, :10]
        best = np.take_along_axis(candidates, ranked, axis=1)
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best, exact, strict=True)]))

    assert codes.rescored_recall == pytest.approx(found(codes.rescore), abs=1e-4)
    assert codes.rescore > 2
    assert found(codes.rescore // 2) < min(0.99, found(60))


def test_where_bits_fill_no_bytes_nothing_is_rescored() -> None:
    codes = vector_codes.rescoring(frozen(12), EncodedDataset("x", unit(20, 12), unit(5, 12)))
    assert codes == frozen(12)


def test_what_the_real_export_froze(bundle: Path) -> None:
    codes = Bundle.open(bundle).manifest.codes
    assert codes.clipped < 0.002
    assert codes.rescored_recall is not None
    assert codes.rescored_recall >= 0.99
    assert codes.documents >= 500
