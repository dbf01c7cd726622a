from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedship import stdlib_docs
from embedship.commands.main import run
from embedship.serve.index.manifest import read


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"id": "{n}", "text": "text number {n}"}}\n' for n in range(12)))
    return path


def test_json_for_machines(bundle: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "index"
    assert run(["index", str(bundle), str(corpus), "--out", str(out), "--kind", "binary", "--json"]) == 0
    report, manifest = json.loads(capsys.readouterr().out), read(out)
    assert report["fingerprint"] == manifest.fingerprint
    assert (report["documents"], report["kind"], report["factory"]) == (12, "binary", "BFlat")
    assert 48 < report["hot_bytes_per_vector"] < 60
    assert report["disk_bytes"] == sum(file.size for file in manifest.files.values())
    assert report["texts_per_second"] > 0
    assert report["recall"]["ratio"] >= 0.9


def test_a_table_for_people_and_progress_on_stderr(
    bundle: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(bundle), str(corpus), "--out", str(tmp_path / "index"), "--variant", "onnx"]) == 0
    out, err = capsys.readouterr()
    assert "embedding" in err
    assert "embedding" not in out.replace("embedding speed", "")
    for line in ("12", "flat (SQfp16), 384 dimensions", "onnx", "memory per vector", "1.0000 (12 documents as queries"):
        assert line in out
    assert read(tmp_path / "index").variant == "onnx"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["{bundle}", "{corpus}"], 2, "Missing option '--out'"),
        (["{bundle}", "none.jsonl", "--out", "{out}"], 2, "none.jsonl cannot be read"),
        (["{out}", "{corpus}", "--out", "{out}"], 2, "is not a bundle"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--variant", "none"], 2, "no variant 'none'"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--device", "cuda"], 2, "also give --ray ADDRESS"),
        (["{bundle}", "--from", "{out}", "--out", "{out}", "--ray", "local"], 2, "--variant or --ray"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--oversample", "0"], 2, "greater than or equal to 1"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--kind", "pq", "--nprobe", "2"], 2, "effort nprobe: this index"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--kind", "pq", "--factory", "SQ8"], 2, "give only one of them"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--factory", "IDMap,Flat"], 2, "leave IDMap out"),
        (
            ["{bundle}", "{corpus}", "--out", "{out}", "--recall", "0.9", "--nprobe", "9"],
            2,
            "chooses the search",
        ),
        (["{bundle}", "{corpus}", "--out", "{out}", "--latency", "5ms"], 2, "need --recall: without"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--recall", "0.9", "--latency", "5"], 2, "write it as 5ms"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--recall", "0.9", "--memory", "0MB"], 2, "write it as 500MB"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    bundle: Path,
    corpus: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {"bundle": bundle, "corpus": corpus, "out": tmp_path / "index"}
    assert run(["index", *(argument.format(**paths) for argument in arguments)]) == code
    assert reason in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == [corpus]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f'{{"text": "which text is number {n}"}}\n' for n in range(40)))
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.jsonl"
    words = ("walrus", "tax", "engine", "poem", "river", "virus", "code", "cake", "law", "star")
    lines = (f'{{"id": "{n}", "text": "{words[n % 10]} {words[n // 10 % 10]} {n}"}}\n' for n in range(300))
    path.write_text("".join(lines))
    return path


def test_by_goal(bundle: Path, many: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "index", tmp_path / "page.html"
    goals = ["--recall", "0.9", "--latency", "10s", "--memory", "1GB", "--queries", str(questions)]
    arguments = ["index", str(bundle), str(many), "--out", str(out), *goals, "--report", str(page)]
    assert run([*arguments, "--json"]) == 0
    report, manifest = json.loads(capsys.readouterr().out), read(out)
    choice = report["choice"]
    chosen = choice["measured"][choice["chosen"]]
    assert (choice["queries"], choice["source"], choice["documents"]) == (40, "questions.jsonl", 300)
    assert chosen["recall"]["low"] >= 0.9
    assert (manifest.kind, manifest.effort.oversample) == (report["kind"], chosen["effort"]["oversample"])
    assert manifest.choice is not None
    assert manifest.choice.machine.cores > 0
    assert sorted(path.name for path in out.iterdir()) == sorted(["index.json", *manifest.files])
    assert "<svg" in page.read_text()
    assert chosen["recipe"]["factory"] in page.read_text()


def test_goals_that_cannot_be_met(bundle: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thirty sampled documents ask, and are left out of what is measured."""
    out = tmp_path / "index"
    goals = ["--recall", "0.9", "--memory", "1KB"]
    assert run(["index", str(bundle), str(many), "--out", str(out), *goals]) == 3
    table, sentence = capsys.readouterr()
    assert "measured on 270 vectors with 30 held-out vectors" in " ".join(table.split())
    assert "no index meets all goals: the nearest is" in sentence
    assert ", not 0.0 MB" in sentence
    assert not out.exists()


@pytest.mark.parametrize("variant", ["onnx", "onnx-int8"])
def test_recall_of_an_index_is_asked_with_the_variant_it_was_built_with(
    bundle: Path, tmp_path: Path, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built of the corpus or of an index, the same kind has the same recall for the same questions."""
    entries = stdlib_docs.entries(600)
    for name, rows in (("corpus", [{"id": e.id, "text": e.summary} for e in entries]),
                       ("queries", [{"text": e.body[:80]} for e in entries[::3]])):  # fmt: skip
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = ["--kind", "pq", "--oversample", "1", "--queries", str(tmp_path / "queries"), "--json"]
    given = [str(tmp_path / "corpus"), "--variant", variant, "--out", str(tmp_path / "first")]
    assert run(["index", str(bundle), *given, *made]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run(["index", str(bundle), "--from", str(tmp_path / "first"), "--out", str(tmp_path / "again"), *made]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (first["variant"], again["variant"]) == (variant, variant)
    assert again["recall"] == first["recall"]
    assert first["recall"]["ratio"] < 0.99, "else nothing would show a difference"


def test_a_chunked_index_says_that_chunks_were_asked(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(n), "text": f"word{n} " * 300}) + "\n" for n in range(12)))
    assert run(["index", str(bundle), str(corpus), "--out", str(tmp_path / "index"), "--chunk", "40"]) == 0
    rows = read(tmp_path / "index").size
    assert rows > 12
    assert f"({min(rows, 200)} chunks as queries)" in " ".join(capsys.readouterr().out.split())
