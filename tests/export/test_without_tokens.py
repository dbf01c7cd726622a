"""A text without any token has no vector: it is left out and named before anything slow begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from embedship.bundle import Bundle
from embedship.commands import main
from embedship.encoder import Encoder
from embedship.errors import UsageError
from embedship.export.build import build
from embedship.export.gates.dataset import RetrievalDataset
from embedship.export.options import ExportOptions
from embedship.export.steps import StepTimer
from embedship.tokens import Tokenizer

from .conftest import tail
from .gates.test_dataset import write

LINES = [f"read the file number {i} of the date {i * i}" for i in range(30)]
ZERO = "\x07\x07"  # not empty, but nothing that the tokenizer keeps


@pytest.fixture(scope="module")
def bare(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(tail=tail(), special=False)


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = {f"d{i}": line for i, line in enumerate(LINES)} | {"hollow": ""}
    queries = {f"q{i}": line for i, line in enumerate(LINES[:5])} | {"silent": "", "lost": "read"}
    judged = [*(f"q{i}\td{i}\t1" for i in range(5)), "q0\thollow\t1", "silent\td1\t1", "lost\thollow\t1"]
    return write(tmp_path_factory.mktemp("beir"), corpus, queries, judged)


def test_export_and_evaluate_leave_them_out_and_name_them(
    bare: Path, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = StringIO()
    options = ExportOptions(
        texts=lines(tmp_path / "texts.jsonl", [ZERO, *LINES]),
        queries=lines(tmp_path / "queries.jsonl", [ZERO, *LINES]),
        evaluation=evaluation,
        variants=("onnx",),
    )
    made = build(bare, tmp_path / "bundle", options, StepTimer(Console(file=said, width=1000)))
    assert made.manifest.quality is not None
    assert (made.manifest.quality.documents, made.manifest.quality.queries) == (30, 5)
    assert made.manifest.quality.result_of("checkpoint").metrics["recall@10"] == 1
    printed = said.getvalue()
    assert "1 document has no tokens, so no vector, and is left out (hollow)" in printed
    assert "1 query has no tokens, so no vector, and is left out (silent)" in printed
    assert "--queries: 1 of 31 queries have no tokens" in printed
    assert printed.index("hollow") < printed.index("make onnx")
    with Encoder.open(made) as encoder:
        assert encoder.tokenizer(["", ZERO]).lengths == [0, 0]
    assert main.run(["evaluate", str(tmp_path / "bundle"), str(evaluation), "--codes", "float32", "--json"]) == 0
    answer = capsys.readouterr()
    assert json.loads(answer.out)["documents"] == 30
    assert "(hollow)" in " ".join(answer.err.split())


def test_nothing_but_such_texts_is_refused_with_a_sentence(bare: Path, tmp_path: Path) -> None:
    hollow = lines(tmp_path / "texts.jsonl", [ZERO])
    for given, sentence in (
        (ExportOptions(texts=hollow), "--texts contains no text"),
        (ExportOptions(queries=hollow), "--queries contains no"),
    ):
        with pytest.raises(UsageError, match=sentence):
            build(bare, tmp_path / "bundle", given, StepTimer(Console(quiet=True)))
    assert not (tmp_path / "bundle").exists()


def test_with_special_tokens_an_empty_document_stays(bundle: Path, evaluation: Path) -> None:
    """So says sentence-transformers, too: its vector is that of the two special tokens."""
    opened = Bundle.open(bundle)
    data = RetrievalDataset.read(evaluation)
    assert data.drop_empty_texts(Tokenizer.open(opened), opened.manifest.pipeline, pytest.fail) is data
