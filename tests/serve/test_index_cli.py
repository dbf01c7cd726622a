from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedship.cli import run
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
    assert (report["documents"], report["kind"], report["hot_bytes_per_vector"]) == (12, "binary", 48)
    assert report["disk_bytes"] == sum(file.size for file in manifest.files.values())
    assert report["texts_per_second"] > 0
    assert report["recall"]["ratio"] >= 0.9


def test_a_table_for_people_and_progress_on_stderr(
    bundle: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["index", str(bundle), str(corpus), "--out", str(tmp_path / "index"), "--variant", "onnx"]) == 0
    out, err = capsys.readouterr()
    assert "embedding" in err
    assert "embedding" not in out
    for line in ("12", "flat, 384 dimensions", "onnx", "1,536 bytes a vector", "1.0000 (12 documents as queries"):
        assert line in out
    assert read(tmp_path / "index").variant == "onnx"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["{bundle}", "{corpus}"], 2, "Missing option '--out'"),
        (["{bundle}", "none.jsonl", "--out", "{out}"], 2, "none.jsonl cannot be read"),
        (["{out}", "{corpus}", "--out", "{out}"], 2, "is no bundle"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--variant", "none"], 2, "no variant 'none'"),
        (["{bundle}", "{corpus}", "--out", "{out}", "--oversample", "0"], 2, "greater than or equal to 1"),
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
