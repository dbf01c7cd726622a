"""`embedship compare` of two bundles: a good one, one that an export went wrong with, and another model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedship.bundle import Bundle
from embedship.commands.main import run
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.files import jsonl
from embedship.serve.compare.questions import QuestionSet
from embedship.serve.compare.sources import DocumentSources

from .conftest import Asked


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = run(["compare", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def passed(found: dict[str, Any]) -> dict[str, bool | None]:
    return {gate["name"]: gate["passed"] for gate in found["gates"]}


def test_another_variant_of_the_model_passes(
    bundle: Path, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    options = ["--variant", "onnx", "--new-variant", "onnx-int8", "--corpus", asked.corpus, "--rounds", "2"]
    loose = ["--max-recall-drop", "0.1", "--max-ndcg-drop", "0.1"]
    code, found = compared(capsys, bundle, bundle, asked.queries, *options, *loose, "--report", page)
    assert code == 0, found["verdict"]
    gates = passed(found)
    assert {name for name, ok in gates.items() if ok is None} == {"speed", "size", "memory"}, "they have no limit"
    assert {
        "model", "golden texts of OLD", "golden texts of NEW", "queries", "golden texts", "vectors", "ranking",
        "recall@10 by labels", "nDCG@10 by labels", "drift",
    } == {name for name, ok in gates.items() if ok}  # fmt: skip
    measured = found["measured"]
    assert 0.98 < measured["vectors"]["mean"] < 0.9999, "int8 is not float32"
    assert measured["speed"]["rounds"] == 2
    assert 50e6 < found["new"]["memory_bytes"] < 2e9
    assert found["new"]["bytes"] < found["old"]["bytes"]
    assert measured["agreement"]["recall"]["mean"] == pytest.approx(by_hand(bundle, asked), abs=0.004)
    text = page.read_text()
    assert found["verdict"][0].replace("'", "&#39;") in text
    assert text.count("<svg") == 2
    assert "<script" not in text


def by_hand(bundle: Path, asked: Asked) -> float:
    """recall@10 of int8 against float32 by plain numpy, in float32."""
    queries, documents = (
        [row.text for row in jsonl.read(path, jsonl.TextLine)] for path in (asked.queries, asked.corpus)
    )
    best = []
    for variant in ("onnx", "onnx-int8"):
        with Encoder.open(bundle, variant) as encoder:
            best.append(np.argsort(-(encoder.encode(queries) @ encoder.encode(documents).T), axis=1)[:, :10])
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*best, strict=True)]))


def test_an_export_gone_wrong_is_refused(
    bundle: Path, coarse: Path, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own golden texts, its hashes and its fingerprint are in order."""
    Bundle.open(coarse).verify()
    options = ["--variant", "onnx", "--corpus", asked.corpus, "--rounds", "0"]
    code, found = compared(capsys, bundle, coarse, asked.queries, *options)
    assert code == 3
    gates = passed(found)
    assert gates["golden texts of NEW"], "by itself it is content"
    assert not any(gates[name] for name in ("golden texts", "vectors", "ranking", "recall@10 by labels"))
    assert "NEW may not replace OLD." in found["verdict"]
    assert any("do not ship it" in sentence for sentence in found["verdict"])
    code, found = compared(capsys, coarse, bundle, asked.plain, "--new-variant", "onnx", "--rounds", "0")
    assert code == 3, "and neither may it be told from the right one by who came first"
    assert (found["lines"], found["queries"]) == (asked.count + 40, asked.count), "a query is one, however often asked"


def test_another_model_is_refused_until_it_is_meant(
    bundle: Path, stranger: Path, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [bundle, stranger, asked.plain, "--variant", "onnx", "--rounds", "0"]
    code, found = compared(capsys, *both)
    assert code == 3
    assert "NEW is another model" in found["verdict"][1]
    code, found = compared(capsys, *both, "--other-model")
    assert code == 2
    assert "no option measures its quality" in found["error"]
    documents = ["--other-model", "--corpus", asked.corpus]
    code, found = compared(capsys, *both, *documents, "--qrels", asked.qrels)
    assert code == 3, "two bits a weight find less"
    gates = passed(found)
    assert gates["ranking"] is None, "another model may rank otherwise"
    assert gates["recall@10 by labels"] is False
    assert found["measured"]["vectors"] is None, "vectors of two models are not compared"
    code, found = compared(capsys, *both, *documents, "--min-recall", "0.01")
    assert code == 0, found["verdict"]


def test_an_empty_document_is_skipped_and_its_judgement_is_a_miss(
    bundle: Path, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As standard corpora have some: recall by labels is lower by what can never be found, for both."""
    corpus, qrels = tmp_path / "corpus.jsonl", tmp_path / "qrels.tsv"
    corpus.write_text(asked.corpus.read_text() + '\n{"id": "nothing", "text": " "}\n')
    judged = asked.qrels.read_text()
    qrels.write_text(judged + "".join(f"\nq{n}\tnothing\t1" for n in range(asked.count)) + "\n\n")
    recall = []
    for documents, judgements in ((asked.corpus, asked.qrels), (corpus, qrels)):
        options = ["--corpus", documents, "--qrels", judgements, "--rounds", "0", "--variant", "onnx"]
        code, found = compared(capsys, bundle, bundle, asked.plain, *options, "--new-variant", "onnx")
        assert code == 0, found
        recall.append(found["measured"]["labels"]["recall"]["new"])
    assert recall[1] == pytest.approx(recall[0] / 2)
    assert "documents without text were skipped: 1 (nothing)" in found["measured"]["agreement"]["what"]


def test_indexes_are_searched(
    bundle: Path, index_folder: Path, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """60 passages: OLD exactly, NEW as its own index does; another model cannot search OLD's."""
    queries = tmp_path / "queries.jsonl"
    words, things = ("length", "order", "name", "copy", "size", "type"), ("list", "file", "set", "path", "class")
    lines = [{"text": f"{word} of a {thing}"} for word in words for thing in things]
    queries.write_text("\n".join(map(json.dumps, lines)))
    few = ["--min-queries", "30", "--variant", "openvino", "--rounds", "0", "--index", index_folder]
    own = ["--new-index", index_folder, "--new-variant", "openvino", "--min-recall", "0.8"]
    code, found = compared(capsys, bundle, bundle, queries, *few, *own)
    assert code == 0, found["verdict"]
    assert found["measured"]["agreement"]["recall"]["mean"] == 1.0
    assert "its own index (flat)" in found["measured"]["agreement"]["what"]
    code, found = compared(capsys, bundle, stranger, queries, *few, "--other-model", "--min-recall", "0.5")
    assert code == 2
    assert "give --new-index" in found["error"]
    arguments = [bundle, stranger, queries, *few, "--other-model", "--min-recall", "0.5", "--new-index", index_folder]
    assert compared(capsys, *arguments)[0] == 4, "the index is OLD's model's"


def test_limits_are_gates(bundle: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--min-speed", "1000", "--max-memory", "0.01", "--max-size", "0.01", "--min-queries", "5000"]
    code, found = compared(capsys, bundle, bundle, asked.plain, "--rounds", "1", *limits)
    assert code == 3
    assert {name for name, ok in passed(found).items() if ok is False} == {"speed", "memory", "size", "queries"}
    assert len(found["verdict"]) == 5


def test_wrong_usage_is_a_sentence(bundle: Path, asked: Asked, tmp_path: Path) -> None:
    for options, sentence in [
        ({"corpus": asked.corpus, "index": tmp_path}, "exclude one another"),
        ({"new_index": tmp_path}, "needs --index"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=sentence):
            DocumentSources(**options)
    for arguments in (
        [bundle, "http://127.0.0.1:9", asked.plain], [tmp_path, bundle, asked.plain],
        [bundle, bundle, asked.plain, "--qrels", asked.qrels, "--rounds", "0"], [bundle, bundle, tmp_path / "none"],
    ):  # fmt: skip
        assert run(["compare", *map(str, arguments)]) == 2, arguments


@pytest.mark.parametrize("option", ["--max-latency=2", "--max-failures=1", "--timeout=5", "--api-key-file=keys"])
def test_what_is_for_servers_is_not_for_bundles(
    bundle: Path, asked: Asked, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(bundle), str(bundle), str(asked.plain), option]) == 2
    assert f"{option.partition('=')[0]} is for two servers" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--with-title", "--rounds=0", "--min-speed=1", "--index=here"])
def test_what_is_for_bundles_is_not_for_servers(asked: Asked, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "http://127.0.0.1:9", "http://127.0.0.1:9", str(asked.plain), option]) == 2
    assert f"{option.partition('=')[0]} is for two bundles" in capsys.readouterr().err


def test_few_labels_do_not_let_another_model_pass(
    bundle: Path, stranger: Path, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in asked.queries.read_text().splitlines()]
    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join(json.dumps(line if n < 2 else {"text": line["text"]}) for n, line in enumerate(lines)))
    options = ["--other-model", "--corpus", asked.corpus, "--rounds", "0"]
    code, found = compared(capsys, bundle, stranger, file, "--variant", "onnx", *options)
    assert code == 3
    assert passed(found)["labels"] is False
    assert any("2 labelled queries; 100 are required" in sentence for sentence in found["verdict"])


def test_labels_are_not_dropped(bundle: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = compared(capsys, bundle, bundle, asked.queries, "--rounds", "0")
    assert code == 2
    assert "queries are labelled" in found["error"]


def test_labels_must_name_documents(bundle: Path, asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"text": "a", "relevant": ["nowhere"]}')
    arguments = ["compare", str(bundle), str(bundle), str(tmp_path / "q.jsonl"), "--corpus", str(asked.corpus)]
    assert run([*arguments, "--rounds", "0"]) == 2


def test_questions_with_one_text_are_one(tmp_path: Path) -> None:
    lines = ['{"text": "a", "relevant": ["x"]}', '{"text": "b"}', '{"text": "a", "relevant": ["y"], "_id": "1"}']
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    found = QuestionSet.read(tmp_path / "q.jsonl")
    assert list(found.texts) == ["a", "b"]
    assert list(found.relevant) == [{"x", "y"}, set()]
    assert (found.lines, found.labelled) == (3, [0])
    assert list(found.with_judgements({"1": {"z"}}).relevant) == [{"x", "y", "z"}, set()]
    with pytest.raises(UsageError, match="--qrels"):
        QuestionSet(["a"], [set()], [{"1"}], 1).with_judgements({"2": {"z"}})
