"""Whole exports of a tiny checkpoint, through the command and through the function behind it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from embedship import variant_choice
from embedship.bundle import REPORT_HTML, REPORT_JSON, Bundle, Objective, ParityFloors, Precision
from embedship.commands import main
from embedship.encoder import Encoder
from embedship.errors import GateError, UsageError
from embedship.export.build import build
from embedship.export.gates import parity
from embedship.export.options import ExportOptions
from embedship.export.report.sbom import SBOM
from embedship.export.steps import StepTimer
from embedship.golden_texts import ALONE_FLOOR
from embedship.monitor.drift.reference import DriftReference

from ..instruction_sets import LIMITED_TO_AVX2

LINES = [f"read the file number {i} of the date {i * i}" for i in range(60)]
# Two random layers of 32 dimensions hold far less redundancy than a trained model: int8 costs them more.
LOOSE = {**parity.FLOORS, Precision.INT8: ParityFloors(minimum=0.5, mean=0.5, overlap=0.2, length=0.5)}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    return path


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beir")
    for name, prefix, lines in (("corpus", "d", LINES), ("queries", "q", LINES[:20])):
        rows = (json.dumps({"_id": f"{prefix}{i}", "text": line}) + "\n" for i, line in enumerate(lines))
        (folder / f"{name}.jsonl").write_text("".join(rows))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(20)))
    return folder


def quiet() -> StepTimer:
    return StepTimer(Console(quiet=True))


@pytest.fixture(scope="session")
def exported(tiny: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    build(tiny, out, ExportOptions(texts=texts, floors=LOOSE), quiet())
    return out


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_every_variant_is_there_measured_and_runs(exported: Path, tiny: Path) -> None:
    bundle = Bundle.open(exported)
    names = [v.name for v in bundle.manifest.variants]
    assert names == ["onnx", "onnx-int8", "openvino", "openvino-int8"]
    assert bundle.verify() == len(bundle.manifest.files)
    assert set(bundle.manifest.choice.tokens_per_second) == set(names)
    for variant in bundle.manifest.variants:
        assert variant.size == sum(bundle.manifest.files[n].size for n in bundle.files_of(variant)[2:])
        assert variant.parity.texts == 14 + 30, "adversarial texts, and the half of 60 that calibrated nothing"
        assert 0 < variant.parity.longest <= 64
        assert variant.parity.overlap > 0.2
        assert variant.invariance.texts >= 25
        assert variant.invariance.worst >= ALONE_FLOOR
        with Encoder.open(bundle, variant.name) as encoder:
            assert encoder.engine.precision is variant.precision
            np.testing.assert_allclose(np.linalg.norm(encoder.encode(LINES[:3]), axis=1), 1, rtol=1e-2)


def test_a_bundle_holds_no_pickle_and_no_weights_but_those_of_its_graphs(exported: Path) -> None:
    suffixes = {p.suffix for p in exported.rglob("*") if p.is_file()}
    assert suffixes <= {".json", ".onnx", ".xml", ".bin", ".safetensors", ".txt", ".html"}
    assert {p.name for p in exported.rglob("*.safetensors")} == {"golden.safetensors"}
    assert {p.parent.name for p in exported.rglob("*.bin")} == {"openvino"}
    assert {"config.json", "modules.json", "config_sentence_transformers.json"} <= {p.name for p in exported.iterdir()}


def test_exporting_again_gives_the_same_files(exported: Path, tiny: Path, texts: Path, tmp_path: Path) -> None:
    """But for the date in the bill of materials; with one date for both, test_supply_chain.py."""
    again = build(tiny, tmp_path / "again", ExportOptions(texts=texts, floors=LOOSE), quiet())
    first = Bundle.open(exported)
    assert again.fingerprint == first.fingerprint
    without_reports = [
        {
            name: file for name, file in files.items() if name not in {REPORT_HTML, REPORT_JSON, SBOM}
        }  # measured speeds are in them
        for files in (again.manifest.files, first.manifest.files)
    ]
    assert without_reports[0] == without_reports[1]
    assert len(without_reports[0]) == len(first.manifest.files) - 3


def test_the_gate_fails_closed(tiny: Path, texts: Path, tmp_path: Path) -> None:
    floors = {**parity.FLOORS, Precision.FLOAT32: ParityFloors(minimum=1.1, mean=0.9, overlap=0.9, length=0.9)}
    with pytest.raises(GateError, match=r"(?s)floor 1.1 \(--floor float32-minimum\).*Worst of \d+ texts: '"):
        build(tiny, tmp_path / "bundle", ExportOptions(texts=texts, floors=floors, variants=("onnx",)), quiet())
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_does_not_pass(
    tiny: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pooling forgets the mask: right for every text alone, wrong in company."""
    from embedship.export.variants import torch_graph

    monkeypatch.setitem(torch_graph._POOLS, "mean", lambda hidden, mask, tokens: hidden.mean(dim=1))
    with pytest.raises(GateError, match="does not reproduce the checkpoint's vectors"):
        build(tiny, tmp_path / "bundle", ExportOptions(texts=texts, variants=("onnx",)), quiet())
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_one_line_of_json(
    tiny: Path, texts: Path, evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    options = ["--variants", "onnx-O3", "--texts", texts, "--queries", texts, "--eval", evaluation, "--json"]
    assert main.run(["export", str(tiny), "--out", str(out), *map(str, options)]) == 0
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    result = json.loads(line)
    assert [v["name"] for v in result["variants"]] == ["onnx", "onnx-O3"]
    chosen = result["choice"]["variant"]
    rows = [(row["variant"], row["dimension"], row["code"], row["rescored"]) for row in result["quality"]["measured"]]
    plain = [("checkpoint", 32, "float32", False), ("onnx", 32, "float32", False), ("onnx-O3", 32, "float32", False)]
    codes = [("float16", False), ("int8", False), ("ubinary", False), ("ubinary", True)]
    assert sorted(rows) == sorted([*plain, *((chosen, 32, code, rescored) for code, rescored in codes)])
    assert all(row["metrics"]["recall@10"] == 1 for row in result["quality"]["measured"] if row["code"] == "float32")
    assert "gate onnx-O3" in printed.err
    bundle = Bundle.open(out)
    DriftReference.load(out / "reference.safetensors").require(bundle.fingerprint)


def test_a_budget_that_nothing_keeps_leaves_no_bundle(
    tiny: Path, texts: Path, evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedship.export.gates import retrieval_metrics

    options = ExportOptions(texts=texts, variants=("onnx",), evaluation=evaluation, max_recall_drop=0.005)
    monkeypatch.setattr(retrieval_metrics, "drop", lambda before, after: 0.006)
    with pytest.raises(GateError, match=r"loses more than 0.005 .* checkpoint 1.0000, onnx 1.0000.*--max-recall-drop"):
        build(tiny, tmp_path / "bundle", options, quiet())
    assert list(tmp_path.iterdir()) == []


def test_a_budget_needs_questions(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-recall-drop needs --eval"):
        build(tiny, tmp_path / "bundle", ExportOptions(max_recall_drop=0.005), quiet())


def test_the_smallest_is_chosen_when_size_is_what_counts(exported: Path) -> None:
    bundle = Bundle.open(exported)
    sizes = {v.name: v.size for v in bundle.manifest.variants}
    speeds = variant_choice.VariantSpeeds(
        bundle.manifest.choice.tokens_per_second, bundle.manifest.choice.latency_seconds
    )
    ranked = variant_choice.rank(bundle.manifest.variants, Objective.SIZE, speeds)
    assert ranked[0].size == min(sizes.values())
    assert set(bundle.manifest.choice.latency_seconds) == set(sizes)
    assert all(0 < seconds < 10 for seconds in bundle.manifest.choice.latency_seconds.values())


def test_the_command_shows_a_table(tiny: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path / "bundle"), "--variants", "onnx", "--texts", str(texts)]
    assert main.run(["export", str(tiny), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "1.00000" in printed
    assert "serve uses on" in printed
    assert main.run(["export", str(tiny), *arguments]) == 2, "a bundle is there already"
    assert "--force" in capsys.readouterr().err


def test_prompts_are_applied_as_the_checkpoint_applies_them(checkpoint: Any, texts: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = checkpoint(prompts={"query": "read: ", "document": "file: "}, default_prompt_name="document")
    build(folder, tmp_path / "bundle", ExportOptions(texts=texts, variants=("onnx",)), quiet())
    model = SentenceTransformer(str(folder), device="cpu")
    with Encoder.open(tmp_path / "bundle") as encoder:
        np.testing.assert_allclose(encoder.encode(LINES), model.encode(LINES), atol=1e-4)
        vectors = encoder.encode(LINES, prompt_name=encoder.bundle.manifest.pipeline.query_prompt)
        np.testing.assert_allclose(vectors, model.encode_query(LINES), atol=1e-4)
    assert np.abs(model.encode_query(LINES) - model.encode(LINES)).max() > 0.1


def test_an_unknown_variant_is_refused_before_anything_is_done(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use one of onnx, onnx-O1"):
        build(tiny, tmp_path / "bundle", ExportOptions(variants=("onnx-O9",)), quiet())


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: _flip(f / "onnx" / "model.onnx"), "onnx/model.onnx has changed"),
        (lambda f: _flip(f / "tokenizer.json"), "tokenizer.json has changed"),
        (lambda f: (f / "1_Pooling" / "config.json").unlink(), "1_Pooling/config.json is missing"),
        (lambda f: (f / "added.txt").touch(), "added.txt was added"),
        (lambda f: _flip(f / "bundle.json"), "bundle.json"),
    ],
)
def test_verify_names_what_was_tampered_with(
    copy: Path, spoil: Any, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(copy)
    assert main.run(["verify", str(copy)]) == 4
    assert named in capsys.readouterr().err


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("options", "begun"), [((), "out/.bundle.building-*/tokenizer.json"), (("--dry-run",), "temporary/embedship-*")]
)
def test_a_terminated_export_leaves_nothing(minilm: Path, tmp_path: Path, options: tuple[str, ...], begun: str) -> None:
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    for folder in (out, temporary):
        folder.mkdir()
    command = [sys.executable, "-P", "-m", "embedship", "export", str(minilm), "--out", str(out / "bundle"), *options]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        for _ in range(600):
            if any(tmp_path.glob(begun)):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert list(out.iterdir()) == []
    assert list(temporary.glob("embedship-*")) == []  # torch leaves caches of its own beside it


def test_the_real_bundle_holds_what_was_promised(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    by_name = {v.name: v for v in manifest.variants}
    assert by_name["onnx-int8"].fused["QuantizedMatMul"] == 36
    assert by_name["onnx-int8"].parity.minimum > 0.985
    # At an AVX2 limit, the 8-bit products of files that are made for VNNI overflow.
    assert by_name["openvino-int8"].parity.minimum > (0.97 if LIMITED_TO_AVX2 else 0.985)
    assert by_name["onnx"].parity.minimum > 0.99999
    assert manifest.choice.variant in by_name


def test_export_needs_no_torch_to_show_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import embedship.export.commands.export, sys; print([m for m in ('torch', 'onnx', 'transformers') if m in sys.modules])"  # noqa: E501
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
