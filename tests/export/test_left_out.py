"""A variant that fails is left out of a default export, and stops one that named it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from embedship.bundle import Bundle, ExportStage, ParityFloors, Precision, Task
from embedship.commands import main
from embedship.encoder import Encoder
from embedship.errors import GateError
from embedship.export.build import build
from embedship.export.gates import parity
from embedship.export.options import ExportOptions
from embedship.export.steps import StepTimer
from embedship.export.variants import openvino

LINES = [f"read the file number {i} of the date {i * i}" for i in range(40)]
# A random model of 32 dimensions has little redundancy: int8 costs it more than a trained one.
LOOSE = {**parity.FLOORS, Precision.INT8: ParityFloors(minimum=0.5, mean=0.5, overlap=0.2, length=0.5)}
LOOSE_SCORES = {**LOOSE, Precision.INT8: ParityFloors(minimum=-1.0, mean=-1.0, overlap=0.0, length=0.0)}
LOOSE_OPTIONS = [f"--floor=int8-{figure}=0.2" for figure in ("minimum", "mean", "overlap", "length", "short")]
Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    return path


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beir")
    for name, lines in (("corpus", LINES), ("queries", LINES[:10])):
        rows = (json.dumps({"_id": f"{i}", "text": line}) + "\n" for i, line in enumerate(lines))
        (folder / f"{name}.jsonl").write_text("".join(rows))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{i}\t{i}\t1\n" for i in range(10)))
    return folder


def quiet() -> StepTimer:
    return StepTimer(Console(quiet=True))


def cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter dies after it has begun to write."""

    def quantise(source: Path, target: Path, *_: Any) -> dict[str, int]:
        target.with_suffix(".bin").write_bytes(b"half of it")
        raise RuntimeError("no such operator")

    monkeypatch.setattr(openvino, "quantise", quantise)


def is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file computes something else: all vectors point the other way."""
    import onnx

    def quantise(source: Path, target: Path, *_: Any) -> dict[str, int]:
        model = onnx.load(str(source))
        for node in model.graph.node:
            node.output[:] = ["before" if name == "sentence_embedding" else name for name in node.output]
        model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["sentence_embedding"]))
        wrong = target.with_suffix(".onnx")
        onnx.save(model, str(wrong))
        openvino.convert(wrong, target)
        wrong.unlink()
        return {}

    monkeypatch.setattr(openvino, "quantise", quantise)


CASES = [
    (cannot_be_made, ExportStage.MAKE, "RuntimeError: no such operator"),
    (is_wrong, ExportStage.PARITY, "--floor int8-"),
]


@pytest.mark.parametrize(("spoil", "stage", "reason"), CASES)
def test_a_default_export_keeps_what_passes_and_names_what_failed(
    spoil: Break, stage: ExportStage, reason: str, tiny: Path, texts: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spoil(monkeypatch)
    out = tmp_path / "bundle"
    strict = [option for option in LOOSE_OPTIONS if "minimum" not in option] + ["--floor=int8-minimum=0.5"]
    arguments = ["export", str(tiny), "--out", str(out), "--texts", str(texts), *strict]
    assert main.run([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    (failed,) = result["left_out"]
    assert (failed["name"], failed["stage"]) == ("openvino-int8", stage)
    assert reason in failed["reason"]
    assert "openvino-int8 is left out" in printed.err
    bundle = Bundle.open(out)
    assert [v.name for v in bundle.manifest.variants] == ["onnx", "onnx-int8", "openvino"]
    assert "openvino-int8" not in bundle.manifest.choice.tokens_per_second
    assert [msgspec.to_builtins(one) for one in bundle.manifest.failed] == [failed]
    assert not list(out.glob("openvino/*qint8*")), "its files are gone"
    assert bundle.verify() == len(bundle.manifest.files)
    report = json.loads((out / "report.json").read_bytes())
    assert report["left_out"] == [failed]
    assert "openvino-int8" not in report["cosines"]
    assert "openvino-int8 was left out of the bundle, because it failed" in (out / "report.html").read_text()


def test_the_table_names_what_is_left_out(
    tiny: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cannot_be_made(monkeypatch)
    options = ["--variants", "openvino-int8", "--skip-failed", "--texts", str(texts)]
    assert main.run(["export", str(tiny), "--out", str(tmp_path / "bundle"), *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "openvino-int8 left out" in printed
    assert "openvino-int8 is left out, it failed (make): RuntimeError: no such operator" in printed
    assert not (tmp_path / "bundle" / "openvino").exists()


@pytest.mark.parametrize(("spoil", "stage", "reason"), CASES)
def test_a_named_variant_fails_closed_with_advice_that_exists(
    spoil: Break, stage: ExportStage, reason: str, tiny: Path, texts: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spoil(monkeypatch)
    out = tmp_path / "bundle"
    arguments = ["export", str(tiny), "--out", str(out), "--texts", str(texts)]
    assert main.run([*arguments, "--variants", "openvino,openvino-int8", "--json"]) == 3
    sentence = json.loads(capsys.readouterr().out)["error"]
    assert reason in sentence
    assert f"openvino-int8 failed ({stage})" in sentence
    assert "No bundle was written." in sentence
    assert list(tmp_path.iterdir()) == []
    advice = "onnx,openvino"
    assert f"--variants {advice}" in sentence
    assert main.run([*arguments, "--variants", advice]) == 0, "what is advised works"


def test_the_plain_variant_cannot_be_left_out(tiny: Path, texts: Path, tmp_path: Path) -> None:
    floors = {**LOOSE, Precision.FLOAT32: ParityFloors(minimum=1.1, mean=0.9, overlap=0.9, length=0.9)}
    with pytest.raises(GateError, match=r"(?s)onnx failed \(parity\).*other variant is made from onnx.*: lower the fl"):
        build(tiny, tmp_path / "bundle", ExportOptions(texts=texts, floors=floors), quiet())
    assert list(tmp_path.iterdir()) == []


def test_a_re_ranker_too_goes_on_without_it(
    cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cannot_be_made(monkeypatch)
    options = ExportOptions(task=Task.RERANK, floors=LOOSE_SCORES)
    made = build(cross_encoder, tmp_path / "bundle", options, quiet())
    assert [(one.name, one.stage) for one in made.manifest.failed] == [("openvino-int8", ExportStage.MAKE)]
    assert [v.name for v in made.manifest.variants] == ["onnx", "onnx-int8", "openvino"]
    assert made.verify() == len(made.manifest.files)


def test_a_variant_that_fails_on_the_corpus_is_left_out_and_never_chosen(
    tiny: Path, texts: Path, evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed its gates, was timed, and gives NaN for a text of the corpus."""
    from embedship.export.gates import retrieval_metrics

    doors = retrieval_metrics.encode_functions

    def broken(
        encoder: Encoder, progress: retrieval_metrics.Advance | None = None
    ) -> tuple[retrieval_metrics.Encode, retrieval_metrics.Encode]:
        documents, queries = doors(encoder, progress)
        if encoder.variant.name == "openvino":
            return (lambda texts: np.full((len(texts), 32), np.nan, np.float32)), queries
        return documents, queries

    monkeypatch.setattr(retrieval_metrics, "encode_functions", broken)
    options = ExportOptions(
        texts=texts, evaluation=evaluation, max_recall_drop=0.5, variants=("openvino",), skip_failed=True, floors=LOOSE
    )
    made = build(tiny, tmp_path / "bundle", options, quiet())
    (failed,) = made.manifest.failed
    assert (failed.name, failed.stage) == ("openvino", ExportStage.RETRIEVAL)
    assert "NaN" in failed.reason
    assert made.manifest.choice.variant == "onnx"
    assert list(made.manifest.choice.tokens_per_second) == ["onnx"]


def test_bundles_in_which_nothing_failed_are_written_as_before(bundle: Path) -> None:
    assert b'"left_out": [{' not in Path(bundle, "bundle.json").read_bytes().replace(b"\n", b"")
    assert Bundle.open(bundle).manifest.failed == ()
