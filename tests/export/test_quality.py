from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedship.errors import UsageError
from embedship.export.quality import Dataset, evaluate, metrics, search


def write(folder: Path, corpus: dict[str, str], queries: dict[str, str], qrels: list[str]) -> Path:
    rows = {"corpus.jsonl": corpus, "queries.jsonl": queries}
    for name, texts in rows.items():
        (folder / name).write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{line}\n" for line in qrels))
    return folder


def test_metrics_by_hand() -> None:
    """Two relevant documents, found at ranks 2 and 4."""
    found = metrics(["x", "a", "y", "b", "z"], {"a", "b"})
    assert (found["accuracy@1"], found["accuracy@3"]) == (0, 1)
    assert (found["precision@5"], found["recall@3"], found["recall@5"]) == (0.4, 0.5, 1)
    assert found["mrr@10"] == 0.5
    assert found["map@100"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3)))


def test_equal_to_the_evaluator_of_sentence_transformers(checkpoint: Any, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    rng = np.random.default_rng(0)
    words = ["the", "of", "read", "file", "word", "parse", "date", "a", "text", "x1", "y2", "z3"]
    corpus = {f"d{i}": " ".join(rng.choice(words, 6)) for i in range(150)}
    queries = {f"q{i}": " ".join(rng.choice(words, 3)) for i in range(25)}
    relevant = {q: {f"d{int(d)}" for d in rng.choice(150, 1 + n % 4, replace=False)} for n, q in enumerate(queries)}
    data = Dataset.read(write(tmp_path, corpus, queries, [f"{q}\t{d}\t1" for q, ds in relevant.items() for d in ds]))
    model = SentenceTransformer(str(checkpoint(prompts={"query": "read: "})), device="cpu")
    theirs = InformationRetrievalEvaluator(queries, corpus, relevant, write_csv=False, name="x")(model)
    ours = evaluate(data, *(lambda texts, f=f: f(list(texts)) for f in (model.encode_document, model.encode_query)))
    assert len(ours) == 15
    assert {f"x_cosine_{name}" for name in ours} <= set(theirs)
    for name, value in ours.items():
        assert value == pytest.approx(theirs[f"x_cosine_{name}"], abs=5e-5), name


def test_search_is_exact_and_ties_go_by_id() -> None:
    rng = np.random.default_rng(1)
    documents, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 3))
    documents[7] = documents[3]
    ids = [f"{i:02d}" for i in range(40)]
    expected = [
        [ids[i] for i in sorted(range(40), key=lambda i: (-row[i], ids[i]))][:12] for row in queries @ documents.T
    ]
    assert search(documents, queries, ids, k=12) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", r"qrels.tsv, line 2: expected"),
        ("q1\td1\tyes", r"qrels.tsv, line 2: expected"),
        ("q1\tnone\t1", r"line 2: document 'none' is not in corpus.jsonl"),
        ("q1\td1\t0", "no query .* has a relevant document"),
    ],
)
def test_bad_judgements_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Dataset.read(write(tmp_path, {"d1": "a"}, {"q1": "b"}, [line]))


def test_titles_are_embedded_only_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"d1": "text"}, {"q1": "b"}, ["q1\td1\t1"])
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "A title", "text": "text"}\n')
    assert Dataset.read(tmp_path).documents == ["text"]
    assert Dataset.read(tmp_path, title=True).documents == ["A title text"]
