from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedship.errors import UsageError
from embedship.export.gates.dataset import RetrievalDataset


def write(folder: Path, corpus: dict[str, str], queries: dict[str, str], qrels: list[str]) -> Path:
    rows = {"corpus.jsonl": corpus, "queries.jsonl": queries}
    for name, texts in rows.items():
        (folder / name).write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{line}\n" for line in qrels))
    return folder


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
        RetrievalDataset.read(write(tmp_path, {"d1": "a"}, {"q1": "b"}, [line]))


def test_titles_are_embedded_only_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"d1": "text"}, {"q1": "b"}, ["q1\td1\t1"])
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "A title", "text": "text"}\n')
    assert RetrievalDataset.read(tmp_path).documents == ["text"]
    assert RetrievalDataset.read(tmp_path, title=True).documents == ["A title text"]


def test_documents_lie_in_the_order_of_their_ids(tmp_path: Path) -> None:
    data = RetrievalDataset.read(write(tmp_path, {"b": "two", "a": "one"}, {"q": "x"}, ["q\tb\t1"]))
    assert data.documents == ["one", "two"]
    assert [rows.tolist() for rows in data.relevant] == [[1]]


def test_two_documents_of_one_id_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"d1": "text"}, {"q1": "b"}, ["q1\td1\t1"])
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n')
    with pytest.raises(UsageError, match="gives an _id to two documents"):
        RetrievalDataset.read(tmp_path)


def test_judgements_without_a_header_lose_no_line_in_silence(tmp_path: Path) -> None:
    write(tmp_path, {"d1": "text"}, {"q1": "b"}, [])
    (tmp_path / "qrels.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(UsageError, match="has no header line"):
        RetrievalDataset.read(tmp_path)
