"""Every figure against sentence-transformers' own evaluator, and against ir-measures (trec_eval)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from embedship.bundle import Similarity, VectorCode, VectorCodes
from embedship.codes import Int8Scale, Vectors, binary, normalise, signs, to_float16, truncate_dimensions
from embedship.errors import EngineError
from embedship.export.gates import retrieval_metrics
from embedship.export.gates.dataset import RetrievalDataset
from embedship.export.gates.retrieval_metrics import (
    PLAIN,
    STORAGES,
    EncodedDataset,
    VectorStorage,
    grid,
    measure,
    metrics,
    nearest,
    rescore_candidates,
    stored,
)

from .test_dataset import write

DIMENSIONS = (32, 16, 8)


def single(hits: list[int], relevant: int) -> dict[str, float]:
    row = np.array([hits], dtype=bool)
    return retrieval_metrics.mean(metrics(row, row, np.array([relevant])))


def test_metrics_by_hand() -> None:
    """Two relevant documents, found at ranks 2 and 4."""
    found = single([0, 1, 0, 1, 0], 2)
    assert (found["accuracy@1"], found["accuracy@3"]) == (0, 1)
    assert (found["precision@5"], found["recall@3"], found["recall@5"]) == (0.4, 0.5, 1)
    assert found["mrr@10"] == 0.5
    assert found["map@100"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    expected = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert found["ndcg@10"] == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]], Path]:
    """150 documents of which some say the same, 25 questions, one to four answers each."""
    rng = np.random.default_rng(0)
    words = ["the", "of", "read", "file", "word", "parse", "date", "a", "text", "x1", "y2", "z3"]
    corpus = {f"d{i}": " ".join(rng.choice(words, 6)) for i in range(150)}
    corpus["d7"] = corpus["d3"]
    queries = {f"q{i}": " ".join(rng.choice(words, 3)) for i in range(25)}
    relevant = {q: {f"d{int(d)}" for d in rng.choice(150, 1 + n % 4, replace=False)} for n, q in enumerate(queries)}
    qrels = [f"{q}\t{d}\t1" for q, ds in relevant.items() for d in ds]
    return corpus, queries, relevant, write(tmp_path_factory.mktemp("beir"), corpus, queries, qrels)


@pytest.fixture(scope="module")
def model(checkpoint: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(checkpoint(prompts={"query": "read: "})), device="cpu")


@pytest.fixture(scope="module")
def data(files: Any) -> RetrievalDataset:
    return RetrievalDataset.read(files[3])


@pytest.fixture(scope="module")
def encoded(data: RetrievalDataset, model: Any) -> EncodedDataset:
    doors = ((lambda texts, f=f: f(list(texts))) for f in (model.encode_document, model.encode_query))
    return EncodedDataset.make("x", data, *doors, Cosine)  # type: ignore[arg-type]


class Cosine:
    """Of a pipeline, only this matters here."""

    similarity = Similarity.COSINE


@pytest.fixture(scope="module")
def codes(encoded: EncodedDataset) -> VectorCodes:
    return VectorCodes(
        int8=tuple(Int8Scale.fit(encoded.cut(dimension).documents) for dimension in DIMENSIONS),
        clipped=0.0,
        binary_threshold=0.0,
        rescore=4,
        rescored_recall=None,
        documents=0,
    )


def theirs(files: Any, model: Any, **options: Any) -> dict[str, float]:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    corpus, queries, relevant, _ = files
    return dict(InformationRetrievalEvaluator(queries, corpus, relevant, write_csv=False, name="x", **options)(model))


def assert_equal(ours: dict[str, float], expected: dict[str, float], function: str = "cosine") -> None:
    assert len(ours) == 15
    assert {f"x_{function}_{name}" for name in ours} <= set(expected)
    for name, value in ours.items():
        assert value == pytest.approx(expected[f"x_{function}_{name}"], abs=5e-5), name


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_equal_to_the_evaluator_of_sentence_transformers(
    files: Any, data: RetrievalDataset, model: Any, encoded: EncodedDataset, dimension: int
) -> None:
    ours = measure(data, encoded.cut(dimension), PLAIN)
    assert (ours.dimension, ours.bytes_per_vector) == (dimension, 4 * dimension)
    assert_equal(ours.metrics, theirs(files, model, truncate_dim=dimension))


class Packed:
    """A model whose documents have gone through a code and back, so that their evaluator can judge our codes."""

    similarity_fn_name = "dot"

    def __init__(self, model: Any, query: Any, document: Any) -> None:
        self.model, self.packed, self.model_card_data = model, {"query": query, "document": document}, self

    def encode_query(self, texts: Sequence[str], **_: Any) -> Any:
        return self._encoded("query", texts)

    def encode_document(self, texts: Sequence[str], **_: Any) -> Any:
        return self._encoded("document", texts)

    def _encoded(self, side: str, texts: Sequence[str]) -> Any:
        import torch

        encode = self.model.encode_query if side == "query" else self.model.encode_document
        return torch.from_numpy(self.packed[side](normalise(encode(list(texts)))))

    def set_evaluation_metrics(self, *_: object, **__: object) -> None:
        """Their evaluator notes its result in a model card."""


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("code", [VectorCode.FLOAT16, VectorCode.INT8, VectorCode.UBINARY])
def test_codes_are_judged_as_their_evaluator_would(
    files: Any,
    data: RetrievalDataset,
    model: Any,
    encoded: EncodedDataset,
    codes: VectorCodes,
    dimension: int,
    code: VectorCode,
) -> None:
    from sentence_transformers.util import dot_score

    def document(vectors: Vectors) -> Vectors:
        short = truncate_dimensions(vectors, dimension)
        scale = codes.scale(dimension)
        back = {
            VectorCode.FLOAT16: lambda: to_float16(short).astype(np.float32),
            VectorCode.INT8: lambda: scale.encode(short) * scale.row,
            VectorCode.UBINARY: lambda: signs(binary(short)),
        }
        return np.asarray(back[code]())

    query = document if code is VectorCode.UBINARY else lambda vectors: truncate_dimensions(vectors, dimension)
    expected = theirs(files, Packed(model, query, document), score_functions={"dot": dot_score})
    assert_equal(measure(data, encoded.cut(dimension), VectorStorage(code), codes).metrics, expected, "dot")


def test_binary_documents_are_those_of_sentence_transformers(encoded: EncodedDataset, codes: VectorCodes) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    _, documents = stored(encoded, VectorCode.UBINARY, codes)
    np.testing.assert_array_equal(documents, quantize_embeddings(encoded.documents, "ubinary"))


def test_the_grid_has_a_row_for_every_dimension_and_code(
    data: RetrievalDataset, encoded: EncodedDataset, codes: VectorCodes
) -> None:
    rows = list(grid(data, encoded, DIMENSIONS, STORAGES, codes))
    assert [(row.dimension, row.code, row.rescored) for row in rows] == [
        (dimension, storage.code, storage.rescored) for dimension in DIMENSIONS for storage in STORAGES
    ]
    assert [row.bytes_per_vector for row in rows[:5]] == [128, 64, 32, 4, 4]


def test_sign_bits_need_whole_bytes(data: RetrievalDataset, encoded: EncodedDataset, codes: VectorCodes) -> None:
    short = encoded.cut(12)
    codes = VectorCodes(int8=(Int8Scale.fit(short.documents),), clipped=0.0, binary_threshold=0.0, rescore=1,
                  rescored_recall=None, documents=0)  # fmt: skip
    assert {row.code for row in grid(data, encoded, [12], STORAGES, codes)} == {
        VectorCode.FLOAT32,
        VectorCode.FLOAT16,
        VectorCode.INT8,
    }


def test_rescoring_ranks_the_candidates_of_the_bits_by_int8(
    data: RetrievalDataset, encoded: EncodedDataset, codes: VectorCodes
) -> None:
    """For each k its own candidates: 4 x 10 of them at 10, all 150 at 100."""
    row = measure(data, encoded, VectorStorage(VectorCode.UBINARY, rescored=True), codes)
    bits = nearest(*stored(encoded, VectorCode.UBINARY, codes), 40)
    queries, documents = stored(encoded, VectorCode.INT8, codes)
    scores = queries @ documents.astype(np.float32).T
    best = [sorted(rows, key=lambda r, s=s: (-s[r], r))[:10] for rows, s in zip(bits.tolist(), scores, strict=True)]
    np.testing.assert_array_equal(rescore_candidates(encoded, codes, bits, 10), best)
    shares = [
        len(set(found) & set(wanted.tolist())) / len(wanted) for found, wanted in zip(best, data.relevant, strict=True)
    ]
    assert row.metrics["recall@10"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert row.metrics["map@100"] == measure(data, encoded, VectorStorage(VectorCode.INT8), codes).metrics["map@100"]


def test_search_is_exact_over_several_blocks_and_ties_go_to_the_lower_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_metrics, "_DOCUMENTS", 16)
    monkeypatch.setattr(retrieval_metrics, "_QUERIES", 2)
    rng = np.random.default_rng(1)
    documents, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 3))
    documents[37] = documents[3]
    expected = [sorted(range(40), key=lambda i, s=s: (-s[i], i))[:12] for s in queries @ documents.T]
    np.testing.assert_array_equal(nearest(queries, documents, 12), expected)


def test_nan_is_no_result(data: RetrievalDataset) -> None:
    broken = lambda texts: np.full((len(texts), 8), np.nan, np.float32)  # noqa: E731
    with pytest.raises(EngineError, match="x gives NaN"):
        EncodedDataset.make("x", data, broken, broken, Cosine)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_agrees_with_ir_measures_on_ties_and_unlabelled_queries(seed: int, tmp_path: Path) -> None:
    """Scores are small integers, so most are tied."""
    rng = np.random.default_rng(seed)
    names = [f"d{row}" for row in range(150)]
    queries = {f"q{n:02}": "a question" for n in range(30)}
    labels = {q: rng.choice(names, 1 + n, replace=False) for n, q in enumerate(queries) if n % 6}
    folder = write(
        tmp_path, {name: name for name in names}, queries, [f"{q}\t{d}\t1" for q, ds in labels.items() for d in ds]
    )
    data = RetrievalDataset.read(folder)
    documents, asked = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (150, len(data.queries)))
    encoded = EncodedDataset("x", documents, asked)
    scores = encoded.queries @ encoded.documents.T
    assert all(len(set(row)) < 40 for row in scores.tolist()), "ties decide most ranks"

    # We rank ties by rising row, trec_eval by falling id: in the run, a lower row has a larger id.
    run_names = {row: f"r{999 - row}" for row in range(150)}
    run = {
        query: {run_names[row]: score for row, score in enumerate(of_query)}
        for query, of_query in zip(data.query_ids, scores.tolist(), strict=True)
    }
    qrels = {
        query: {run_names[row]: 1 for row in rows.tolist()}
        for query, rows in zip(data.query_ids, data.relevant, strict=True)
    }
    measures = {
        "ndcg@10": ir_measures.nDCG @ 10,
        "mrr@10": ir_measures.RR,
        "map@100": ir_measures.AP @ 100,
        **{f"recall@{k}": ir_measures.R @ k for k in retrieval_metrics.KS},
        **{f"precision@{k}": ir_measures.P @ k for k in retrieval_metrics.KS},
        **{f"accuracy@{k}": ir_measures.Success @ k for k in retrieval_metrics.KS},
    }
    expected = ir_measures.calc_aggregate(measures.values(), qrels, run)
    # RR@10 would be computed by another provider, which ranks ties otherwise than trec_eval: cut RR here.
    ranks = [each.value for each in ir_measures.iter_calc([ir_measures.RR], qrels, run)]
    expected[ir_measures.RR] = sum(value for value in ranks if value >= 1 / 10) / len(qrels)
    found = measure(data, encoded, PLAIN).metrics
    assert found.keys() == measures.keys()
    assert len(data.queries) == 25, "queries without labels are left out"
    assert found == {name: pytest.approx(expected[measure], abs=1e-6) for name, measure in measures.items()}
